// GPTQ and SparseGPT as steps of a whole job.
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "tests/compress/job.h"
#include "tests/formats.h"

namespace quern::compress {
namespace {

class GptqTest : public CompressTest {
 protected:
  // The share of zeros in all packed matrices whose name ends so.
  double zeros(const std::string& out, const std::string& suffix) const {
    const nn::Source artifact(folder_ / out);
    int64_t count = 0, all = 0;
    for (const std::string& name : artifact.files.names()) {
      const std::string packed = suffix + ".weight_packed";
      if (!name.ends_with(packed)) continue;
      const std::string module = name.substr(0, name.size() - std::string(".weight_packed").size());
      const auto scheme = artifact.quantization->scheme_of(module);
      const auto weight = quant::from_disk(
          module, *scheme, artifact.quantization->format(), [&](const std::string& tensor) {
            return artifact.files.has(tensor) ? artifact.files.tensor(tensor) : Tensor();
          });
      const Tensor numbers = quant::dequantize(weight, at::kFloat);
      count += numbers.eq(0).sum().item<int64_t>();
      all += numbers.numel();
    }
    EXPECT_GT(all, 0);
    return static_cast<double>(count) / static_cast<double>(all);
  }
};

const std::string kGptq = rounding("GPTQModifier"), kNearest = rounding("QuantizationModifier");

TEST_F(GptqTest, BeatsRoundToNearestInEveryFamily) {
  for (const char* model : {"qwen36", "glm45", "gemma4", "sarvam", "qwen3", "llama"}) {
    SCOPED_TRACE(model);
    run_recipe(model, kGptq, "gptq");
    run_recipe(model, kNearest, "rtn");
    EXPECT_LT(distance(model, "gptq"), 0.9 * distance(model, "rtn"));
    fs::remove_all(folder_);
  }
}

TEST_F(GptqTest, SameBytesForEveryNumberOfThreads) {
  for (const int threads : {1, 3}) {
    set_threads(threads);
    run_recipe("qwen36",
               std::string("SparseGPTModifier: {sparsity: 0.2, targets: "
                           "['re:.*mlp.*_proj$']}, ") +
                   kGptq,
               std::to_string(threads));
  }
  expect_same_bytes("1", "3");
}

// A token reaches two of eight experts: with one window of a few tokens some see none.
TEST_F(GptqTest, ExpertsWithoutTokensAreRoundedToNearestAndNamed) {
  const auto few = [&](const std::string& modifiers, const std::string& out) {
    return run("qwen36", recipe_of(modifiers), calibration(1, 2, 512), out, kCompressedTensors);
  };
  const CompressReport report = few(kGptq, "gptq");
  few(kNearest, "rtn");
  ASSERT_FALSE(report.warnings.empty());
  EXPECT_NE(report.warnings[0].find("no calibration token reached it"), std::string::npos);
  const std::string module = report.warnings[0].substr(0, report.warnings[0].find_first_of(" :"));
  const checkpoint::Checkpoint gptq(folder_ / "gptq"), rtn(folder_ / "rtn");
  EXPECT_TRUE(std::ranges::equal(gptq.bytes(module + ".weight_packed"),
                                 rtn.bytes(module + ".weight_packed")))
      << module;
}

// The steps of a published Gemma 4 model: what was pruned stays pruned.
TEST_F(GptqTest, PrunedWeightsStayZero) {
  const std::string prune = "SparseGPTModifier: {sparsity: 0.3, targets: ['re:.*mlp.*_proj$']}, ";
  run_recipe("gemma4", prune + kGptq, "both");
  run_recipe("gemma4", kGptq, "gptq");
  EXPECT_GE(zeros("both", "mlp.down_proj"), 0.3);
  EXPECT_LT(zeros("gptq", "mlp.down_proj"), 0.25);
  EXPECT_LT(distance("gemma4", "both"), 0.5);
  run_recipe("gemma4", prune + kNearest, "nearest");
  EXPECT_GE(zeros("nearest", "mlp.down_proj"), 0.3);
}

TEST_F(GptqTest, PrunesPatterns) {
  run_recipe("qwen3",
             std::string("SparseGPTModifier: {sparsity: 0.5, mask_structure: '2:4', "
                         "targets: ['re:.*mlp.*_proj$']}, ") +
                 kGptq,
             "out");
  EXPECT_GE(zeros("out", "mlp.up_proj"), 0.5);
}

TEST_F(GptqTest, RefusesWhatItCannotWrite) {
  const auto refused = [&](const std::string& modifiers) -> std::string {
    try {
      run_recipe("qwen3", modifiers, "out");
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::infeasible);
      return error.what();
    }
    return "";
  };
  EXPECT_NE(refused("SparseGPTModifier: {sparsity: 0.5, targets: [Linear]}, " +
                    rounding("GPTQModifier", "'re:.*o_proj', lm_head"))
                .find("pruned and then kept"),
            std::string::npos);
  EXPECT_NE(refused(std::string("SparseGPTModifier: {sparsity: 0.5, mask_structure: '20:40', "
                                "block_size: 120, targets: ['re:.*mlp.*_proj$']}, ") +
                    kGptq)
                .find("patterns of 40"),
            std::string::npos);
}

}  // namespace
}  // namespace quern::compress
