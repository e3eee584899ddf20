#include "checkpoint/checkpoint.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "checkpoint/safetensors_writer.h"
#include "tests/checkpoint/scratch.h"

namespace quern::checkpoint {
namespace {
namespace fs = std::filesystem;

const fs::path kData = fs::path(QUERN_SOURCE_DIR) / "tests" / "data";

TEST(Checkpoint, ReadsShardsAndSingleFiles) {
  Checkpoint sharded(kData / "qwen36");
  EXPECT_EQ(sharded.architecture(), "Qwen3_5MoeForConditionalGeneration");
  EXPECT_EQ(sharded.shards().size(), 2u);
  EXPECT_EQ(sharded.names().size(), 124u);
  EXPECT_EQ(sharded.total_bytes(), 12998048u);
  Tensor experts = sharded.tensor("model.language_model.layers.0.mlp.experts.gate_up_proj");
  EXPECT_EQ(experts.sizes(), (at::IntArrayRef{8, 256, 256}));
  EXPECT_EQ(experts.dtype(), at::kBFloat16);

  Checkpoint single(kData / "qwen36_split_experts");
  EXPECT_EQ(single.shards(), std::vector<fs::path>{"model.safetensors"});
  EXPECT_EQ(single.info("model.language_model.layers.0.linear_attn.A_log").dtype, at::kFloat);
  EXPECT_EQ(single.info("model.language_model.layers.0.linear_attn.A_log").begin, 8u + 11984u);
}

TEST(Checkpoint, TensorsAreViewsOfTheFileAndOutliveTheCheckpoint) {
  Tensor norm;
  {
    Checkpoint model(kData / "qwen36");
    norm = model.tensor("model.language_model.norm.weight");
    EXPECT_EQ(static_cast<const void*>(norm.data_ptr()),
              model.bytes("model.language_model.norm.weight").data());
    Tensor before = norm.clone();
    model.release("model.language_model.norm.weight");
    model.release_all();
    EXPECT_TRUE(at::equal(norm, before));
  }
  EXPECT_TRUE(at::isfinite(norm.to(at::kFloat)).all().item<bool>());
}

TEST(Checkpoint, NamesTheNearestTensor) {
  Checkpoint model(kData / "qwen36");
  EXPECT_NE(error_of([&] {
              model.tensor("model.language_model.layer.0.mlp.gate.weight");
            }).find("nearest name is model.language_model.layers.0.mlp.gate.weight"),
            std::string::npos);
}

int64_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t size = 0, resident = 0;
  statm >> size >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

TEST(Checkpoint, ReadsOnlyWhatIsTouched) {
  // A sparse file simulates a model far larger than memory.
  Scratch scratch;
  const std::string json =
      R"({"big":{"dtype":"U8","shape":[1099511627776],"data_offsets":[0,1099511627776]}})";
  scratch.write("config.json", "{}");
  scratch.write("model.safetensors", with_length(json));
  fs::resize_file(scratch / "model.safetensors", 8 + json.size() + (size_t{1} << 40));
  const int64_t before = resident_bytes();
  Checkpoint model(scratch.path());
  Tensor big = model.tensor("big");
  for (int64_t i = 0; i < 20; ++i) EXPECT_EQ(big[i * 10'000'000'019].item<uint8_t>(), 0);
  EXPECT_LT(resident_bytes() - before, 64 << 20);
}

TEST(Checkpoint, ReleasedPagesDoNotCountAsMemory) {
  Scratch scratch;
  const std::string json =
      R"({"x":{"dtype":"U8","shape":[268435456],"data_offsets":[0,268435456]}})";
  scratch.write("config.json", "{}");
  scratch.write("model.safetensors", with_length(json));
  fs::resize_file(scratch / "model.safetensors", 8 + json.size() + (256 << 20));
  Checkpoint model(scratch.path());
  const int64_t before = resident_bytes();
  EXPECT_EQ(model.tensor("x").sum().item<int64_t>(), 0);
  EXPECT_GT(resident_bytes() - before, 200 << 20);
  model.release("x");
  EXPECT_LT(resident_bytes() - before, 16 << 20);
}

// A folder with a config and two shards; `a` and `b` are in the first, `c` in the second.
struct Sharded {
  Scratch scratch;
  JsonValue index = JsonValue::parse(R"({"metadata":{"total_size":24},"weight_map":
      {"a":"one.safetensors","b":"one.safetensors","c":"two.safetensors"}})");

  Sharded() {
    scratch.write("config.json", R"({"architectures":["X"]})");
    write_safetensors(scratch / "one.safetensors", {{"a", at::ones({2})}, {"b", at::ones({2})}});
    write_safetensors(scratch / "two.safetensors", {{"c", at::ones({2})}});
  }
  std::string refusal() {
    scratch.write("model.safetensors.index.json", index.dump());
    return error_of([&] { Checkpoint model(scratch.path()); });
  }
};

TEST(Checkpoint, IndexAndShardsMustAgree) {
  EXPECT_EQ(Sharded().refusal(), "");
  Sharded more;
  more.index["weight_map"]["d"] = "two.safetensors";
  EXPECT_NE(
      more.refusal().find("two.safetensors: tensor d is missing, though the index lists it here"),
      std::string::npos);
  Sharded fewer;
  fewer.index["weight_map"].erase("b");
  EXPECT_NE(fewer.refusal().find("one.safetensors: the index does not list tensor b"),
            std::string::npos);
  Sharded twice;
  write_safetensors(twice.scratch / "two.safetensors",
                    {{"c", at::ones({2})}, {"a", at::ones({2})}});
  EXPECT_NE(twice.refusal().find("tensor a is also in"), std::string::npos);
  Sharded size;  // a warning only
  size.index["metadata"]["total_size"] = 25;
  EXPECT_EQ(size.refusal(), "");
  Sharded empty;
  empty.index.erase("weight_map");
  EXPECT_NE(empty.refusal().find("weight_map is missing"), std::string::npos);
  Sharded wrong;
  wrong.index["weight_map"]["a"] = 1;
  EXPECT_NE(wrong.refusal().find("the file of a must be a string"), std::string::npos);
}

TEST(Checkpoint, AMissingShardIsNamedWithATensorOfIt) {
  Sharded sharded;
  fs::remove(sharded.scratch / "one.safetensors");
  EXPECT_NE(
      sharded.refusal().find("one.safetensors: this shard is missing (with a and 1 other tensors)"),
      std::string::npos)
      << sharded.refusal();
}

TEST(Checkpoint, AnIndexCannotLeadOutOfTheFolder) {
  Scratch outside;
  write_safetensors(outside / "secret.safetensors", {{"c", at::ones({2})}});
  for (const std::string& name :
       {(outside / "secret.safetensors").string(), std::string("../secret.safetensors"),
        std::string("sub/two.safetensors"), std::string("/etc/passwd"),
        std::string("two.safetensors\n"), std::string(".."), std::string(""),
        std::string(".safetensors"), std::string("two.safetensors/../../x.safetensors")}) {
    Sharded sharded;
    sharded.index["weight_map"]["c"] = name;
    EXPECT_NE(sharded.refusal().find("not a valid shard name in this folder"), std::string::npos)
        << name;
  }
}

TEST(Checkpoint, ALinkCannotLeadOutOfTheFolder) {
  Scratch outside;
  write_safetensors(outside / "secret.safetensors", {{"c", at::ones({2})}});
  for (const fs::path& target :
       {outside / "secret.safetensors",
        fs::path("..") / outside.path().filename() / "secret.safetensors"}) {
    Sharded sharded;
    fs::remove(sharded.scratch / "two.safetensors");
    fs::create_symlink(target, sharded.scratch / "two.safetensors");
    EXPECT_NE(sharded.refusal().find("two.safetensors: the link leads out of the model's folder"),
              std::string::npos)
        << target;
  }
  Sharded loop;
  fs::remove(loop.scratch / "two.safetensors");
  fs::create_symlink("two.safetensors", loop.scratch / "two.safetensors");
  EXPECT_NE(loop.refusal().find("two.safetensors: cannot open"), std::string::npos);
  Sharded inside;
  fs::rename(inside.scratch / "two.safetensors", inside.scratch / "2.safetensors");
  fs::create_symlink("2.safetensors", inside.scratch / "two.safetensors");
  EXPECT_EQ(inside.refusal(), "");
  Sharded pipe;
  fs::remove(pipe.scratch / "two.safetensors");
  ASSERT_EQ(mkfifo((pipe.scratch / "two.safetensors").c_str(), 0600), 0);
  EXPECT_NE(pipe.refusal().find("not a regular file"), std::string::npos);
}

TEST(Checkpoint, JsonFilesOfTheFolderFollowNoLinkOutOfIt) {
  Scratch outside;
  outside.write("secret.json", R"({"key": 1})");
  Sharded sharded;
  sharded.scratch.write("inside.json", R"({"key": 2})");
  fs::create_symlink(outside / "secret.json", sharded.scratch / "linked.json");
  EXPECT_EQ(sharded.refusal(), "");  // writes the index
  const Checkpoint model(sharded.scratch.path());
  EXPECT_TRUE(model.has_file("inside.json"));
  EXPECT_FALSE(model.has_file("none.json"));
  EXPECT_EQ(model.json("inside.json")["key"], 2);
  EXPECT_EQ(model.text("inside.json"), R"({"key": 2})");
  for (const auto& read : std::initializer_list<std::function<void()>>{
           [&] { model.json("linked.json"); }, [&] { model.text("linked.json"); }})
    EXPECT_NE(error_of(read).find("linked.json: the link leads out of the model's folder"),
              std::string::npos);
}

// models--ORG--NAME/{blobs/HASH, snapshots/REVISION/file -> ../../blobs/HASH}
TEST(Checkpoint, ReadsASnapshotOfTheDownloadCache) {
  Scratch cache;
  cache.write("blobs/c0ffee", R"({"architectures":["X"]})");
  write_safetensors(cache / "blobs" / "decaf", {{"a", at::ones({2})}});
  const fs::path snapshot = cache / "snapshots" / "abc";
  fs::create_directories(snapshot / "nested");
  fs::create_symlink("../../blobs/c0ffee", snapshot / "config.json");
  fs::create_symlink("../../blobs/decaf", snapshot / "model.safetensors");
  fs::create_symlink("../../../blobs/c0ffee", snapshot / "nested" / "x.json");
  Checkpoint model(snapshot);
  EXPECT_TRUE(at::equal(model.tensor("a"), at::ones({2})));
  EXPECT_TRUE(model.open("nested/x.json").open());

  cache.write("secret", "{}");
  for (const char* target : {"../../secret", "../../blobs/../secret", "../../blobs/link"}) {
    fs::remove(snapshot / "config.json");
    fs::remove(cache / "blobs" / "link");
    fs::create_symlink("../secret", cache / "blobs" / "link");
    fs::create_symlink(target, snapshot / "config.json");
    EXPECT_NE(error_of([&] { Checkpoint again(snapshot); }), "") << target;
  }
}

TEST(Checkpoint, SaysWhatIsMissingInAFolder) {
  Scratch scratch;
  EXPECT_NE(error_of([&] { Checkpoint model(scratch / "nowhere"); }).find("cannot open the folder"),
            std::string::npos);
  EXPECT_NE(error_of([&] { Checkpoint model(scratch.path()); }).find("there is no config.json"),
            std::string::npos);
  scratch.write("config.json", "[]");
  EXPECT_NE(error_of([&] { Checkpoint model(scratch.path()); }).find("must be an object"),
            std::string::npos);
  scratch.write("config.json", "{}");
  EXPECT_NE(
      error_of([&] { Checkpoint model(scratch.path()); }).find("neither model.safetensors nor"),
      std::string::npos);
  write_safetensors(scratch / "model.safetensors", {{"a", at::ones({2})}});
  EXPECT_NE(
      error_of([&] { Checkpoint(scratch.path()).architecture(); }).find("architectures is missing"),
      std::string::npos);
  Sharded both;
  write_safetensors(both.scratch / "model.safetensors", {{"a", at::ones({2})}});
  EXPECT_NE(both.refusal().find("describe different weights"), std::string::npos);
}

}  // namespace
}  // namespace quern::checkpoint
