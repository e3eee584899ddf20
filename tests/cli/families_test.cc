// The main job, compress -> verify -> generate, on every family: on trained models with all checks,
// on random checkpoints with the exact checks only, because random weights have no quality to
// measure.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/cli/run.h"

namespace quern::cli {
namespace {

// A trained model: from this repository, $QUERN_ASSETS or ../shared.
fs::path trained(const std::string& name) {
  if (fs::exists(test_data(name))) return test_data(name);
  const char* given = std::getenv("QUERN_ASSETS");
  return (given ? fs::path(given) : fs::path(QUERN_SOURCE_DIR).parent_path() / "shared") /
         "models" / name;
}

std::string rows() { return test_data("calibration/calibration.jsonl").string(); }

std::string readable(std::string name) {
  std::erase_if(name, [](char c) { return !std::isalnum(static_cast<unsigned char>(c)); });
  return name;
}

struct Job {
  const char *model, *method, *format;
};

class TrainedTest : public testing::TestWithParam<Job> {};

TEST_P(TrainedTest, PassesTheGatesAndStillCounts) {
  const Job& job = GetParam();
  const fs::path source = trained(job.model);
  if (!fs::exists(source)) GTEST_SKIP() << source << " is not there: set QUERN_ASSETS";
  const Scratch scratch;
  const std::string out = (scratch / "out").string();
  std::vector<std::string> args = {"compress", source.string(), "-o",       out,       "--method",
                                   job.method, "--json",        "--format", job.format};
  if (job.method == std::string("auto-round"))
    args.insert(args.end(), {"--data", rows(), "--seqlen", "160", "--nsamples", "32", "--iters",
                             "30", "--batch-size", "8"});
  const Ran ran = quern(args);
  ASSERT_EQ(ran.code, 0) << ran.err;
  const auto said = nlohmann::json::parse(ran.out);
  EXPECT_TRUE(said.at("verification").at("passed"));
  // A third of the default limit, because these models were trained to predict with high
  // confidence.
  EXPECT_LT(said.at("verification").at("quality").at("mean_kld").get<double>(), 0.04);
  const Ran answer = quern({"generate", out, "--prompt", "What is 24 + 13?", "--temperature", "0",
                            "--max-tokens", "60"});
  EXPECT_EQ(answer.code, 0) << answer.err;
  EXPECT_NE(answer.out.find("37"), std::string::npos) << answer.out;
}

INSTANTIATE_TEST_SUITE_P(, TrainedTest,
                         testing::Values(Job{"tiny-gemma4", "rtn", "auto_gptq"},
                                         Job{"tiny-gemma4", "rtn", "compressed-tensors"},
                                         Job{"tiny-gemma4", "auto-round", "auto_gptq"},
                                         Job{"tiny-gemma4", "auto-round", "compressed-tensors"},
                                         Job{"tiny-glm4.5", "rtn", "auto_gptq"},
                                         Job{"tiny-glm4.5", "rtn", "compressed-tensors"},
                                         Job{"tiny-glm4.5", "auto-round", "auto_gptq"},
                                         Job{"tiny-glm4.5", "auto-round", "compressed-tensors"}),
                         [](const auto& info) {
                           return readable(std::string(info.param.model) + info.param.method +
                                           info.param.format);
                         });

class RandomTest : public testing::TestWithParam<std::pair<const char*, const char*>> {};

TEST_P(RandomTest, IsVerifiedMatrixByMatrixAndRuns) {
  const auto& [model, format] = GetParam();
  const Scratch scratch;
  const std::string out = (scratch / "out").string();
  const Ran ran = quern({"compress", test_data(model).string(), "-o", out, "--method", "rtn",
                         "--format", format, "--group-size", "32", "--no-quality-gate", "--json"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  EXPECT_TRUE(nlohmann::json::parse(ran.out).at("verification").at("passed"));
  const fs::path ids = scratch.write("ids.json", "[[40, 41, 42, 43, 44]]");
  EXPECT_EQ(quern({"logits", out, "--tokens", ids.string(), "-o", (scratch / "l").string()}).code,
            0);
}

INSTANTIATE_TEST_SUITE_P(
    , RandomTest,
    testing::Values(std::pair{"sarvam", "auto_gptq"}, std::pair{"sarvam", "compressed-tensors"},
                    std::pair{"glm45", "auto_gptq"}, std::pair{"glm45", "compressed-tensors"},
                    std::pair{"gemma4_moe", "auto_gptq"},
                    std::pair{"gemma4_moe", "compressed-tensors"}, std::pair{"gemma4", "auto_gptq"},
                    std::pair{"gemma4", "compressed-tensors"},
                    std::pair{"qwen3", "compressed-tensors"}, std::pair{"llama", "auto_gptq"}),
    [](const auto& info) { return readable(std::string(info.param.first) + info.param.second); });

TEST(DeadMatrices, AreLeftOutOnRequest) {
  const Scratch scratch;
  const std::string out = (scratch / "out").string();
  const Ran ran =
      quern({"compress", test_data("gemma4").string(), "-o", out, "--method", "rtn", "--format",
             "compressed-tensors", "--drop-unused", "--no-quality-gate", "--json"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(nlohmann::json::parse(ran.out).at("verification").at("dropped"), 6);
}

// The result of transformers (the model's reference.json), with windows that begin with the text.
TEST(Perplexity, OfGemma4EqualsTransformers) {
  const fs::path source = trained("tiny-gemma4");
  if (!fs::exists(source)) GTEST_SKIP() << source << " is not there: set QUERN_ASSETS";
  const Ran ran =
      quern({"perplexity", source.string(), "--text", test_data("validation.txt").string(),
             "--window", "512", "--no-bos", "--json"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  EXPECT_NEAR(nlohmann::json::parse(ran.out).at("perplexity").get<double>(), 1.5965287557812409,
              1e-4);
}

TEST(Drafts, AreTunedAndVerified) {
  const Scratch scratch;
  const std::string out = (scratch / "out").string();
  const Ran ran =
      quern({"compress", model(), "-o", out, "--calibrate-draft", "--data", rows(), "--iters", "20",
             "--nsamples", "16", "--seqlen", "128", "--batch-size", "4", "--json"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  const auto draft = nlohmann::json::parse(ran.out).at("blocks").at(4);
  EXPECT_EQ(draft.at("name"), "mtp");
  EXPECT_LT(draft.at("loss_after").get<double>(), draft.at("loss_before").get<double>());
}

TEST(Drafts, ArePlannedAsTheyAreTuned) {
  auto of_draft = [](const std::vector<std::string>& more) {
    std::vector<std::string> args = {"plan", model(), "--all", "--json"};
    args.insert(args.end(), more.begin(), more.end());
    const Ran ran = quern(args);
    EXPECT_EQ(ran.code, 0) << ran.err;
    int packed = 0;
    size_t at = 0;
    while ((at = ran.out.find(".qweight\"", at + 1)) != std::string::npos)
      packed += ran.out.rfind("\"mtp.", at) != std::string::npos &&
                ran.out.rfind('"', at - 1) == ran.out.rfind("\"mtp.", at);
    return packed;
  };
  EXPECT_EQ(of_draft({}), 0);
  EXPECT_EQ(of_draft({"--calibrate-draft"}), 4 + 8 * 3 + 3);
  EXPECT_EQ(quern({"plan", model(), "--calibrate-draft", "--method", "rtn"}).code, 2);
}

TEST(Drafts, AskForDataAndALayer) {
  const Scratch scratch;
  const std::string out = (scratch / "out").string();
  const Ran ran = quern({"compress", test_data("sarvam").string(), "-o", out, "--calibrate-draft",
                         "--data", rows(), "--iters", "1", "--nsamples", "1", "--seqlen", "32"});
  EXPECT_EQ(ran.code, 4) << ran.err;
  EXPECT_NE(ran.err.find("draft layer"), std::string::npos) << ran.err;
  EXPECT_EQ(quern({"compress", model(), "-o", out, "--calibrate-draft", "--method", "rtn"}).code,
            2);
}

}  // namespace
}  // namespace quern::cli
