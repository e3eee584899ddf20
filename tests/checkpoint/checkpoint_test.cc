#include "checkpoint/checkpoint.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
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

TEST(Checkpoint, ReadsOnlyWhatIsTouched) {
  // A sparse file stands for a model that is far larger than memory.
  Scratch folder;
  std::string json =
      R"({"big":{"dtype":"U8","shape":[1099511627776],"data_offsets":[0,1099511627776]}})";
  folder.write("config.json", "{}");
  folder.write("model.safetensors", with_length(json));
  fs::resize_file(folder / "model.safetensors", 8 + json.size() + (size_t{1} << 40));
  Checkpoint model(folder.path());
  Tensor big = model.tensor("big");
  for (int64_t i = 0; i < 1000; ++i)
    EXPECT_EQ(big[i * 1'000'000'007 % big.size(0)].item<uint8_t>(), 0);
}

}  // namespace
}  // namespace quern::checkpoint
