// GPTQ and SparseGPT as steps of a whole job.
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/yaml.h"
#include "checkpoint/checkpoint.h"
#include "compress/recipe_read.h"
#include "models/models.h"
#include "tests/compress/job.h"
#include "tests/formats.h"

namespace quern::compress {
namespace {

class GptqTest : public CompressTest {
 protected:
  CompressReport run_recipe(const std::string& model, const std::string& modifiers,
                            const std::string& out, size_t windows = 8) {
    const std::string yaml = "a_stage: {a_modifiers: {" + modifiers + "}}";
    return run(model, parse_recipe(parse_yaml(yaml, "r.yaml"), "r.yaml"),
               calibration(windows, 48, 512), out, kCompressedTensors);
  }

  // How far the artifact's logits are from the original's, on the calibration's tokens.
  double distance(const std::string& model, const std::string& out) const {
    const auto source = std::make_shared<nn::Source>(test_data(model)),
               artifact = std::make_shared<nn::Source>(folder_ / out);
    return relative_distance(logits(artifact), logits(source));
  }

  static Tensor logits(const std::shared_ptr<nn::Source>& from) {
    at::NoGradGuard no_grad;
    const auto model = models::make_model(from->files.config());
    const nn::Weights root(from);
    std::vector<Tensor> all;
    for (const auto& window : calibration(8, 48, 512).windows) {
      nn::Pass pass = nn::Pass::whole({std::ssize(window)});
      Tensor x = (*model->stem(root))(at::tensor(window, at::kInt).to(at::kLong), pass);
      for (int i = 0; i < model->blocks(); ++i) x = (*model->block(root, i))(x, pass);
      const auto head = model->head(root);
      all.push_back(head->logits(head->norm(x)));
    }
    return at::cat(all);
  }

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

// Groups of 32, which divide the columns of every fixture.
std::string rounding(const std::string& modifier, const std::string& ignore = "lm_head") {
  return modifier +
         ": {config_groups: {g: {targets: [Linear], weights: {num_bits: 4, type: int, symmetric: "
         "true, strategy: group, group_size: 32}}}, ignore: [" +
         ignore + "]}";
}
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
    const std::string yaml = "a_stage: {a_modifiers: {" + modifiers + "}}";
    return run("qwen36", parse_recipe(parse_yaml(yaml, "r.yaml"), "r.yaml"), calibration(1, 2, 512),
               out, kCompressedTensors);
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
