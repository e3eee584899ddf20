// Recipes with several steps: each step tunes its own weights with its own settings.
#include <nlohmann/json.hpp>

#include "base/yaml.h"
#include "checkpoint/checkpoint.h"
#include "compress/recipe_read.h"
#include "tests/compress/job.h"
#include "tests/formats.h"

namespace quern::compress {
namespace {

class StepsTest : public CompressTest {
 protected:
  // Runs the modifiers, and returns the number of iterations of each step of each block.
  std::vector<int> iterations(const std::string& modifiers, const std::string& out,
                              const quant::Format& format = kAutoGptq) {
    const std::string yaml = "a_stage: {" + modifiers + "}";
    fs::create_directories(folder_ / out);
    CompressOptions options;
    options.output = folder_ / out;
    options.format = format;
    std::vector<int> seen;
    Progress progress;
    progress.iteration_done = [&](int iteration, int iterations) {
      if (iteration + 1 == iterations) seen.push_back(iterations);
    };
    report_ = compress(std::make_shared<nn::Source>(test_data("qwen36")),
                       parse_recipe(parse_yaml(yaml, "r.yaml"), "r.yaml"), calibration(4, 24, 512),
                       options, progress);
    return seen;
  }

  JsonValue config(const std::string& out) const {
    return read_json(folder_ / out / "config.json")["quantization_config"];
  }

  CompressReport report_;
};

constexpr const char* kExperts =
    "m_modifiers: {AutoRoundModifier: {iters: 3, batch_size: 2, scheme: W4A16, targets: "
    "['re:.*experts.*_proj$']}}";
constexpr const char* kDelta =
    "n_modifiers: {AutoRoundModifier: {iters: 6, batch_size: 4, scheme: W4A16, targets: "
    "['re:.*linear_attn.out_proj$']}}";

TEST_F(StepsTest, EachHasItsOwnIterations) {
  EXPECT_EQ(iterations(std::string(kExperts) + ", " + kDelta, "both"),
            (std::vector<int>{3, 6, 3, 6, 3, 6, 3}));  // the last block has no delta net
  EXPECT_EQ(iterations(kExperts, "experts"), (std::vector<int>{3, 3, 3, 3}));
  // The first step comes before the second has changed anything of the first block.
  const checkpoint::Checkpoint both(folder_ / "both"), experts(folder_ / "experts");
  int64_t compared = 0;
  for (const std::string& name : experts.names()) {
    if (!name.starts_with("model.language_model.layers.0.mlp.experts.")) continue;
    EXPECT_TRUE(std::ranges::equal(both.bytes(name), experts.bytes(name))) << name;
    ++compared;
  }
  EXPECT_EQ(compared, 8 * 3 * 3);
}

// The second step reduces the error of the first step; a run of the second step alone would not.
TEST_F(StepsTest, TheSecondSeesWhatTheFirstLeft) {
  iterations(std::string(kExperts) + ", " + kDelta, "both");
  const BlockReport both = report_.blocks[0];
  iterations(kExperts, "experts");
  // Alone it keeps the delta net, whose output is then stored once for each sample, in bf16.
  EXPECT_NEAR(both.loss_before, report_.blocks[0].loss_before, 0.01 * both.loss_before);
  iterations(kDelta, "delta");
  EXPECT_GT(both.loss_after, report_.blocks[0].loss_after) << "the experts' error is gone";
}

// After round-to-nearest, AutoRound compensates for its error, which lowers the total loss.
TEST_F(StepsTest, TuningSeesWhatWasRoundedBefore) {
  const std::string nearest =
      "m_modifiers: {QuantizationModifier: {scheme: W4A16, targets: ['re:.*experts.*_proj$']}}";
  iterations(nearest + ", " + kDelta, "out");
  const double together = report_.blocks[0].loss_before;
  iterations(kDelta, "delta");
  EXPECT_GT(together, 1.5 * report_.blocks[0].loss_before);
}

TEST_F(StepsTest, TheConfigurationNamesTheStepThatTuned) {
  const std::string nearest =
      "n_modifiers: {QuantizationModifier: {scheme: W4A16, targets: ['re:.*out_proj$']}}";
  iterations(std::string(kExperts) + ", " + nearest, "out");
  EXPECT_EQ(config("out")["iters"], 3);
  EXPECT_EQ(config("out")["batch_size"], 2);
  iterations(nearest +
                 ", k_modifiers: {QuantizationModifier: {scheme: W4A16, targets: "
                 "['re:.*experts.*_proj$']}}",
             "nearest");
  EXPECT_EQ(config("nearest")["iters"], 0);
}

}  // namespace
}  // namespace quern::compress
