// SmoothQuant: its scales by hand, and whole jobs.
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "compress/calibrate.h"
#include "compress/smoothing.h"
#include "nn/tap.h"
#include "tests/compress/job.h"

namespace quern::compress {
namespace {

class SmoothQuantTest : public CompressTest {
 protected:
  // Of the first block's inputs: the span of each channel of its first norm's output.
  static Tensor spans(const std::string& model, const Calibration& data) {
    struct Inputs : ops::InputTap {
      void see(int64_t, const Tensor& x, const Tensor&) override { all.push_back(x.clone()); }
      std::vector<Tensor> all;
    } inputs;
    const auto source = std::make_shared<nn::Source>(test_data(model));
    const auto architecture = models::make_model(source->files.config());
    const nn::Weights root(source);
    Sites sites;
    const auto block = architecture->block(root.listing(&sites.linears, nullptr, &sites.norms), 0);
    const nn::Tapped tapped(weights_that_read(sites, "model.layers.0.self_attn.qkv_proj"), inputs);
    look_at_block(*block, embed(*architecture->stem(root), data.windows));
    const Tensor x = at::cat(inputs.all);
    return std::get<0>(x.max(0)) - std::get<0>(x.min(0));
  }
};

const std::string kNearest = rounding("QuantizationModifier");

TEST_F(SmoothQuantTest, DividesNormsByTheScalesOfThePaper) {
  for (const char* algorithm : {"smoothquant", "log_equalization"}) {
    SCOPED_TRACE(algorithm);
    const bool logarithms = algorithm == std::string("log_equalization");
    run_recipe("qwen3",
               fmt::format("SmoothQuantModifier: {{smoothing_strength: 0.8, algorithm: {}}}, ",
                           algorithm) +
                   kNearest,
               algorithm);
    const checkpoint::Checkpoint made(folder_ / algorithm), source(test_data("qwen3"));
    const std::string place = "model.layers.0.";
    Tensor sizes = at::zeros({source.info(place + "input_layernorm.weight").shape[0]});
    for (const char* name : {"q_proj", "k_proj", "v_proj"}) {
      const Tensor matrix =
          source.tensor(fmt::format("{}self_attn.{}.weight", place, name)).to(at::kFloat);
      sizes = at::maximum(sizes, std::get<0>(matrix.abs().max(0)));
    }
    const Tensor a = spans("qwen3", calibration(8, 48, 512));
    const Tensor scale = logarithms ? a / (2 + a).log2() : a.pow(0.8) / (2 * sizes).pow(0.2);
    const Tensor wanted = source.tensor(place + "input_layernorm.weight").to(at::kFloat) / scale;
    EXPECT_LT(
        relative_distance(made.tensor(place + "input_layernorm.weight").to(at::kFloat), wanted),
        5e-3);
  }
}

// Experts keep their inputs, as in llm-compressor, unless a mapping names them.
TEST_F(SmoothQuantTest, LeavesExpertsAlone) {
  run_recipe("glm45", "SmoothQuantModifier: {}, " + rounding("GPTQModifier"), "out");
  const checkpoint::Checkpoint made(folder_ / "out"), source(test_data("glm45"));
  const auto changed = [&](const std::string& tensor) {
    return !std::ranges::equal(made.bytes(tensor), source.bytes(tensor));
  };
  EXPECT_TRUE(changed("model.layers.1.input_layernorm.weight"));
  EXPECT_FALSE(changed("model.layers.1.post_attention_layernorm.weight"));
  EXPECT_TRUE(changed("model.layers.0.post_attention_layernorm.weight"));
  EXPECT_LT(distance("glm45", "out"), 0.5);
}

// Both change the same norms.
TEST_F(SmoothQuantTest, GoesBeforeAwq) {
  run_recipe("qwen36", "SmoothQuantModifier: {}, AWQModifier: {n_grid: 8}, " + kNearest, "both");
  run_recipe("qwen36", "SmoothQuantModifier: {}, " + kNearest, "alone");
  EXPECT_LT(distance("qwen36", "both"), distance("qwen36", "alone"));
}

TEST_F(SmoothQuantTest, ReadsMappingsAndWhatTheyIgnore) {
  run_recipe("qwen3",
             "SmoothQuantModifier: {mappings: [[['re:.*gate_proj$', 're:.*up_proj$'], "
             "'re:.*post_attention_layernorm$']], ignore: ['re:.*layers\\.1\\..*']}, " +
                 kNearest,
             "out");
  const checkpoint::Checkpoint made(folder_ / "out"), source(test_data("qwen3"));
  const auto changed = [&](const std::string& tensor) {
    return !std::ranges::equal(made.bytes(tensor), source.bytes(tensor));
  };
  EXPECT_TRUE(changed("model.layers.0.post_attention_layernorm.weight"));
  EXPECT_FALSE(changed("model.layers.1.post_attention_layernorm.weight"));
  EXPECT_FALSE(changed("model.layers.0.input_layernorm.weight"));
  const Recipe again = read_recipe(folder_ / "out" / "recipe.yaml");
  EXPECT_EQ(again.steps[0].modifier, "SmoothQuantModifier");
  EXPECT_EQ(again.steps[0].ignore, std::vector<std::string>{"re:.*layers\\.1\\..*"});
}

TEST_F(SmoothQuantTest, RefusesWrongSettings) {
  for (const char* settings : {"smoothing_strength: 1.5", "algorithm: other", "mappings: [[a]]",
                               "mappings: [[[], b]]", "strength: 0.5"})
    EXPECT_THROW(recipe_of(fmt::format("SmoothQuantModifier: {{{}}}, ", settings) + kNearest),
                 Error)
        << settings;
  EXPECT_THROW(run_recipe("qwen3", kNearest + ", SmoothQuantModifier: {}", "out"), Error);
}

}  // namespace
}  // namespace quern::compress
