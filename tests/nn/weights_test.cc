// Tensors that Weights accepts in a folder in addition to those of its own layout.
#include "nn/weights.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/safetensors_writer.h"
#include "quant/grid.h"
#include "tests/formats.h"
#include "tests/scratch.h"

namespace quern::nn {
namespace {

constexpr int64_t kRows = 32, kColumns = 64;

// A packed linear as GPTQ's tools write one.
class PackedLinear : public testing::TestWithParam<quant::Format> {
 protected:
  PackedLinear() {
    prepare_torch();
    at::manual_seed(5);
    const quant::Scheme scheme{.group_size = 32, .scale_dtype = at::kHalf};
    const auto weight = quant::round_to_nearest(at::randn({kRows, kColumns}), scheme,
                                                {.grid = quant::Grid::auto_round});
    tensors_ = quant::to_disk("up_proj", weight, GetParam());
    config_ = quant::quantization_config(GetParam(), {{"up_proj", scheme}}, {});
  }

  void add(const std::string& name, const Tensor& x) { tensors_.emplace_back(name, x); }

  // The message of taking the linear, then of expect_all_taken().
  std::string error() const {
    write_file(folder_.path() / "config.json", to_text({{"quantization_config", config_}}));
    checkpoint::write_safetensors(folder_.path() / "model.safetensors", tensors_);
    try {
      const Weights root(std::make_shared<const Source>(folder_.path()));
      root.linear("up_proj", kRows, kColumns);
      root.expect_all_taken();
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

  Scratch folder_;
  quant::NamedTensors tensors_;
  JsonValue config_;
};

TEST_P(PackedLinear, MayHaveABiasOfZeros) {
  add("up_proj.bias", at::zeros({kRows}, at::kHalf));
  EXPECT_EQ(error(), "");
}

TEST_P(PackedLinear, HasNoOtherBias) {
  add("up_proj.bias", at::ones({kRows}, at::kHalf));
  EXPECT_NE(error().find("up_proj.bias: config.json describes a model without"), std::string::npos)
      << error();
}

TEST_P(PackedLinear, MayNameTheGroupsOfItsColumns) {
  if (GetParam() == kGptq) return;  // which always writes it
  const bool packed = GetParam() == kCompressedTensors;
  const std::string name = packed ? "up_proj.weight_g_idx" : "up_proj.g_idx";
  add(name, at::arange(kColumns, at::kInt).floor_divide(32));
  EXPECT_EQ(error(), "");
  tensors_.back().second = tensors_.back().second.flip(0).contiguous();
  EXPECT_NE(error().find("not in the order of their groups"), std::string::npos) << error();
}

INSTANTIATE_TEST_SUITE_P(Formats, PackedLinear,
                         testing::Values(kCompressedTensors, kAutoGptq, kGptq),
                         [](const auto& info) {
                           std::string name(std::string(info.param.name));
                           std::erase_if(name, [](char c) { return c == '-' || c == '_'; });
                           return name;
                         });

}  // namespace
}  // namespace quern::nn
