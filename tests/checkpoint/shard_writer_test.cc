#include "checkpoint/shard_writer.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <nlohmann/json.hpp>

#include "base/json.h"
#include "base/threads.h"
#include "checkpoint/carry_over.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/output_folder.h"
#include "tests/checkpoint/scratch.h"

namespace quern::checkpoint {
namespace {
namespace fs = std::filesystem;

const fs::path kData = fs::path(QUERN_SOURCE_DIR) / "tests" / "data";

std::vector<PlannedTensor> copy_all(const Checkpoint& source) {
  std::vector<PlannedTensor> plan;
  for (const std::string& name : source.names())
    plan.push_back(PlannedTensor::copy_of(source.info(name)));
  return plan;
}

PlannedTensor planned(const std::string& name, std::vector<int64_t> shape,
                      Fate fate = Fate::added) {
  return {.name = name, .dtype = at::kFloat, .shape = std::move(shape), .fate = fate, .source = ""};
}

// The fixtures' files were written by the safetensors library.
TEST(SafetensorsWriter, EqualContentGivesEqualBytes) {
  for (const char* file :
       {"qwen36/model-00001-of-00002.safetensors", "qwen36/model-00002-of-00002.safetensors",
        "qwen36_split_experts/model.safetensors", "qwen36/golden.safetensors"}) {
    Scratch scratch;
    SafetensorsFile original(kData / file);
    std::vector<std::pair<std::string, Tensor>> tensors;
    for (const TensorInfo& tensor : original.tensors())
      tensors.insert(tensors.begin(), {tensor.name, original.tensor(tensor.name)});
    write_safetensors(scratch / "again.safetensors", tensors, original.metadata());
    EXPECT_TRUE(slurp(scratch / "again.safetensors") == slurp(kData / file)) << file;
    EXPECT_FALSE(fs::exists(scratch / "again.safetensors.part"));
  }
}

TEST(SafetensorsWriter, SortsByDtypeThenName) {
  Scratch scratch;
  write_safetensors(scratch / "x.safetensors", {{"b", at::zeros({1}, at::kBFloat16)},
                                                {"a", at::zeros({1}, at::kBFloat16)},
                                                {"packed", at::zeros({1}, at::kInt)},
                                                {"float", at::zeros({1}, at::kFloat)},
                                                {"shape", at::zeros({2}, at::kLong)},
                                                {"half", at::zeros({}, at::kHalf)},
                                                {"flag", at::zeros({0, 3}, at::kBool)}});
  std::vector<std::string> names;
  SafetensorsFile file(scratch / "x.safetensors");
  for (const TensorInfo& tensor : file.tensors()) names.push_back(tensor.name);
  EXPECT_EQ(names,
            (std::vector<std::string>{"shape", "float", "packed", "a", "b", "half", "flag"}));
  EXPECT_EQ(file.tensor("flag").sizes(), (at::IntArrayRef{0, 3}));
  EXPECT_EQ(file.tensor("half").dim(), 0);
}

TEST(ShardWriter, CopyOfACheckpointIsByteIdentical) {
  Scratch scratch;
  Checkpoint source(kData / "tiny-qwen3.6");
  ShardWriter writer(scratch.path(), copy_all(source), &source, {.max_shard_bytes = 7'300'000});
  writer.finish();
  for (const fs::path& shard : source.shards())
    EXPECT_TRUE(slurp(scratch / shard) == slurp(kData / "tiny-qwen3.6" / shard)) << shard;
  EXPECT_EQ(slurp(scratch / "model.safetensors.index.json"),
            slurp(kData / "tiny-qwen3.6/model.safetensors.index.json"));
}

TEST(ShardWriter, WritesFromManyThreadsInAnyOrder) {
  Scratch scratch;
  std::vector<PlannedTensor> plan;
  for (int i = 0; i < 100; ++i) plan.push_back(planned(fmt::format("t{}", i), {i, 7}));
  {
    ShardWriter writer(scratch.path(), plan, nullptr, {.max_shard_bytes = 10'000});
    parallel_for(100, [&](int64_t i) {
      // Transposed, to test tensors that are not contiguous.
      writer.write(fmt::format("t{}", 99 - i),
                   at::full({7, 99 - i}, static_cast<double>(99 - i)).t());
    });
    writer.finish();
    EXPECT_EQ(writer.total_bytes(), 4u * 7 * 99 * 100 / 2);
  }
  scratch.write("config.json", "{}");
  Checkpoint back(scratch.path());
  EXPECT_GT(back.shards().size(), 10u);
  for (int i = 0; i < 100; ++i)
    EXPECT_TRUE(
        at::equal(back.tensor(fmt::format("t{}", i)), at::full({i, 7}, static_cast<double>(i))))
        << i;
}

TEST(ShardWriter, KeepsElementOrderOfViews) {
  Scratch scratch;
  Tensor x = at::arange(24, at::kFloat).view({4, 6});
  ShardWriter writer(scratch.path(), {planned("x", {6, 2})}, nullptr);
  writer.write("x", x.t().slice(1, 0, 4, 2));
  writer.finish();
  EXPECT_TRUE(at::equal(SafetensorsFile(scratch / "model.safetensors").tensor("x"),
                        x.t().slice(1, 0, 4, 2)));
}

// Worked by hand from transformers' rule, with a limit of 10: the tensor of 11 is a separate shard
// and does not close the current one.
TEST(ShardWriter, SplitsAsTransformersDoes) {
  std::vector<PlannedTensor> plan;
  for (int64_t size : {6, 4, 1, 11, 9, 1, 0, 10}) {
    plan.push_back(planned(fmt::format("t{}", plan.size()), {size}));
    plan.back().dtype = at::kByte;
  }
  EXPECT_EQ(split_into_shards(plan, 10),
            (std::vector<std::vector<size_t>>{{0, 1}, {3}, {2, 4}, {5, 6}, {7}}));
  EXPECT_EQ(split_into_shards(plan, 1000).size(), 1u);
  EXPECT_EQ(shard_name(0, 1), "model.safetensors");
  EXPECT_EQ(shard_name(1, 12), "model-00002-of-00012.safetensors");
}

TEST(ShardWriter, RefusesAPlanThatLosesATensor) {
  Scratch scratch;
  Checkpoint source(kData / "qwen36_split_experts");
  auto attempt = [&](std::vector<PlannedTensor> plan) {
    return error_of([&] { ShardWriter(scratch.path(), std::move(plan), &source); });
  };
  std::vector<PlannedTensor> plan = copy_all(source);
  plan.erase(plan.begin() + 5);
  EXPECT_EQ(attempt(plan), "tensor " + source.names()[5] +
                               " of the source would be lost: the plan does not mention it");

  plan = copy_all(source);
  plan[3].shape[0] += 1;
  EXPECT_NE(attempt(plan).find("to be copied, but planned as"), std::string::npos);

  plan = copy_all(source);
  plan.push_back(plan[0]);
  EXPECT_NE(attempt(plan).find("planned twice"), std::string::npos);

  plan = copy_all(source);
  plan[0].name = "renamed";
  EXPECT_NE(attempt(plan).find("would be renamed to renamed"), std::string::npos);

  plan = copy_all(source);
  plan[0].source = "nowhere";
  EXPECT_NE(attempt(plan).find("planned from nowhere"), std::string::npos);
  EXPECT_TRUE(fs::is_empty(scratch.path()));
}

TEST(ShardWriter, CopiesWhatIsNotReplaced) {
  Scratch scratch;
  Checkpoint source(kData / "qwen36_split_experts");
  const std::string changed = "model.language_model.norm.weight", quantized = "lm_head.weight";
  std::vector<PlannedTensor> plan = copy_all(source);
  std::erase_if(plan, [&](const PlannedTensor& t) { return t.name == quantized; });
  for (PlannedTensor& tensor : plan)
    if (tensor.name == changed) tensor.fate = Fate::changed;
  plan.push_back({.name = "lm_head.weight_packed",
                  .dtype = at::kInt,
                  .shape = {128, 8},
                  .fate = Fate::quantized,
                  .source = quantized});
  {
    ShardWriter writer(scratch.path(), plan, &source);
    writer.write(changed, at::ones({64}, at::kBFloat16));
    writer.write("lm_head.weight_packed", at::ones({128, 8}, at::kInt));
    EXPECT_NE(error_of([&] {
                writer.write(changed, at::ones({64}, at::kBFloat16));
              }).find("written twice"),
              std::string::npos);
    EXPECT_NE(error_of([&] {
                writer.write("mtp.norm.weight", at::ones({64}, at::kBFloat16));
              }).find("to be copied"),
              std::string::npos);
    EXPECT_NE(error_of([&] { writer.write("new", at::ones({64})); }).find("not planned"),
              std::string::npos);
    writer.finish();
  }
  scratch.write("config.json", "{}");
  Checkpoint output(scratch.path());
  EXPECT_EQ(output.names().size(), source.names().size());
  for (const std::string& name : source.names()) {
    if (name == quantized) continue;
    std::span<const std::byte> a = source.bytes(name), b = output.bytes(name);
    EXPECT_EQ(std::equal(a.begin(), a.end(), b.begin(), b.end()), name != changed) << name;
  }
}

TEST(ShardWriter, NamesWhatWasNeverWrittenAndWhatDoesNotFit) {
  Scratch scratch;
  ShardWriter writer(scratch.path(), {planned("a", {2, 3}), planned("b", {4})}, nullptr);
  EXPECT_NE(error_of([&] { writer.write("a", at::zeros({3, 2})); }).find("F32 of shape [3, 2]"),
            std::string::npos)
      << error_of([&] { writer.write("a", at::zeros({3, 2})); });
  EXPECT_NE(error_of([&] {
              writer.write("b", at::zeros({4}, at::kHalf));
            }).find("F32 of shape [4] was planned"),
            std::string::npos);
  EXPECT_NE(error_of([&] { writer.finish(); }).find("was never written"), std::string::npos);
  EXPECT_FALSE(fs::exists(scratch / "model.safetensors.index.json"));
}

TEST(ShardWriter, ResumesShardsOfTheSamePlan) {
  Scratch scratch;
  const std::vector<PlannedTensor> plan = {planned("a", {2}), planned("b", {2})};
  {
    ShardWriter(scratch.path(), plan, nullptr).write("a", at::ones({2}));
  }
  EXPECT_NE(error_of([&] { ShardWriter(scratch.path(), plan, nullptr); }).find("cannot create"),
            std::string::npos);
  ShardWriter again(scratch.path(), plan, nullptr, {.resume = true});
  again.assume_written("a");
  again.write("b", at::ones({2}));
  again.finish();
  SafetensorsFile file(scratch / "model.safetensors");
  EXPECT_TRUE(at::equal(file.tensor("a"), at::ones({2})));
  EXPECT_TRUE(at::equal(file.tensor("b"), at::ones({2})));
}

TEST(ShardWriter, ADamagedShardIsNoticed) {
  Scratch scratch;
  Checkpoint source(kData / "qwen36_split_experts");
  ShardWriter writer(scratch.path(), copy_all(source), &source, {.resume = true});
  for (const std::string& name : source.names()) writer.assume_written(name);  // a false journal
  Exit code = Exit::ok;
  EXPECT_NE(error_of([&] { writer.finish(); }, &code).find("differs from the source"),
            std::string::npos);
  EXPECT_EQ(code, Exit::verification_failed);
}

TEST(ShardWriter, AFullDiskIsAnErrorBeforeAnythingIsComputed) {
  Scratch scratch;
  // A limit on the size of files simulates a full disk: the same calls fail.
  struct rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, SIG_IGN);
  struct rlimit small = {.rlim_cur = 1 << 20, .rlim_max = before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  Exit code = Exit::ok;
  std::string message =
      error_of([&] { ShardWriter(scratch.path(), {planned("a", {1 << 20})}, nullptr); }, &code);
  setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_EQ(code, Exit::disk);
  EXPECT_NE(message.find("cannot reserve 4194"), std::string::npos) << message;
  EXPECT_NE(message.find("free space"), std::string::npos);
}

// A filesystem of one megabyte, if the test may mount one.
class SmallDisk {
 public:
  SmallDisk() : mounted_(::mount("tmpfs", scratch_.path().c_str(), "tmpfs", 0, "size=1m") == 0) {}
  ~SmallDisk() {
    if (mounted_) ::umount2(scratch_.path().c_str(), MNT_DETACH);
  }
  bool mounted() const { return mounted_; }
  const fs::path& path() const { return scratch_.path(); }

 private:
  Scratch scratch_;
  bool mounted_;
};

TEST(ShardWriter, ASmallDiskIsAnErrorThatLeavesNothing) {
  SmallDisk disk;
  if (!disk.mounted()) GTEST_SKIP() << "mounting a small filesystem takes root";
  Exit code = Exit::ok;
  error_of([&] { OutputFolder output(disk.path() / "OUT", {.needed_bytes = 2 << 20}); }, &code);
  EXPECT_EQ(code, Exit::disk) << "seen before the start";
  const std::string message = error_of(
      [&] {
        OutputFolder output(disk.path() / "OUT");
        ShardWriter writer(output.path(), {planned("a", {1 << 20})}, nullptr);
      },
      &code);
  EXPECT_EQ(code, Exit::disk);
  EXPECT_NE(message.find("No space left on device; free space"), std::string::npos) << message;
  Checkpoint source(kData / "tiny-qwen3.6");
  error_of(
      [&] {
        OutputFolder output(disk.path() / "OUT");
        std::ofstream(output.path() / "filler") << std::string(1000 << 10, 'x');
        copy_other_files(source, output.path());
      },
      &code);
  EXPECT_EQ(code, Exit::disk) << "seen while files are carried over";
  EXPECT_TRUE(fs::is_empty(disk.path()));
}

TEST(ByteRanges, AFullDiskWhileWritingIsAnError) {
  int full = ::open("/dev/full", O_WRONLY);
  if (full < 0) GTEST_SKIP() << "/dev/full is not there";
  std::vector<std::byte> bytes(100);
  Exit code = Exit::ok;
  EXPECT_NE(error_of([&] { write_range({full, 0, "x.safetensors"}, bytes); }, &code)
                .find("x.safetensors: cannot write"),
            std::string::npos);
  EXPECT_EQ(code, Exit::disk);
  ::close(full);
}

}  // namespace
}  // namespace quern::checkpoint
