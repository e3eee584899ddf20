// The checkpoints that tools/make_dense_fixtures.py and make_gemma4_moe_fixture.py made, against
// what transformers computed with them; and what the dense models refuse.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>

#include "base/error.h"
#include "base/file.h"
#include "tests/models/golden.h"

namespace quern::models {
namespace {

constexpr double kLogitTolerance = 2e-4;

class MadeFixtureTest : public testing::TestWithParam<std::string> {
 protected:
  MadeFixtureTest() : folder_(test_data(GetParam())), golden_(folder_ / "golden.safetensors") {
    prepare_torch();
  }

  Tensor golden(const std::string& name) const { return golden_.tensor(name); }
  Tensor ids(const std::string& name) const { return golden(name).to(at::kLong); }

  // What the model says about a config.json with one key changed; "" if it takes it.
  std::string refusal(const std::string& key, const JsonValue& value) const {
    JsonValue config = read_json(folder_ / "config.json");
    config[key] = value;
    try {
      make_model(Json(config, "config.json"));
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

  std::filesystem::path folder_;
  checkpoint::SafetensorsFile golden_;
};

TEST_P(MadeFixtureTest, LogitsAndEveryBlock) {
  Whole whole(folder_);
  for (const std::string p : {"p0", "p1"}) {
    Tensor tokens = ids(p + ".input_ids");
    nn::Pass pass = nn::Pass::whole({tokens.size(0)});
    const auto states = whole.hidden_states(tokens, pass);
    for (size_t i = 0; i + 1 < states.size(); ++i) {
      Tensor expected = golden(fmt::format("{}.hidden.{}", p, i));
      EXPECT_LT(distance(states[i], expected), 1e-4 * expected.abs().max().item<double>()) << i;
    }
    Tensor normed = whole.head->norm(states.back()), expected = golden(p + ".final_norm");
    EXPECT_LT(distance(normed, expected), 1e-4 * expected.abs().max().item<double>());
    EXPECT_LT(distance(whole.head->logits(normed), golden(p + ".logits")), kLogitTolerance) << p;
  }
}

TEST_P(MadeFixtureTest, GreedyContinuationWithCaches) {
  Whole whole(folder_);
  for (const std::string p : {"p0", "p1"}) {
    Tensor tokens = ids(p + ".input_ids"), expected = ids(p + ".greedy_ids");
    nn::Caches caches;
    int64_t past = 0;
    for (int64_t step = 0; step < expected.size(0); ++step) {
      nn::Pass pass = nn::Pass::next(past, tokens.size(0), caches);
      Tensor last = whole.logits(tokens, pass)[-1];
      EXPECT_LT(distance(last, golden(p + ".greedy_logits")[step]), kLogitTolerance)
          << p << " step " << step;
      past += tokens.size(0);
      tokens = last.argmax().reshape({1});
      ASSERT_EQ(tokens.item<int64_t>(), expected[step].item<int64_t>()) << p << " step " << step;
    }
  }
}

TEST_P(MadeFixtureTest, AnyChunkingGivesTheSame) {
  Whole whole(folder_);
  Tensor tokens = ids("p1.input_ids");
  std::mt19937 random(7);
  for (int round = 0; round < 4; ++round) {
    nn::Caches caches;
    for (int64_t begin = 0; begin < tokens.size(0);) {
      const int64_t end = std::min<int64_t>(tokens.size(0), begin + 1 + random() % 12);
      nn::Pass pass = nn::Pass::next(begin, end - begin, caches);
      Tensor logits = whole.logits(tokens.slice(0, begin, end), pass);
      EXPECT_LT(distance(logits, golden("p1.logits").slice(0, begin, end)), kLogitTolerance);
      begin = end;
    }
  }
}

TEST_P(MadeFixtureTest, EveryTensorIsTaken) {
  Whole whole(folder_);
  EXPECT_TRUE(whole.weights.untaken().empty());
}

INSTANTIATE_TEST_SUITE_P(Families, MadeFixtureTest, testing::Values("qwen3", "llama", "gemma4_moe"),
                         [](const auto& family) { return family.param; });

class DenseTest : public MadeFixtureTest {};
TEST_P(DenseTest, BlocksBelowModel) {
  Whole whole(folder_);
  EXPECT_EQ(whole.model->blocks_path(whole.weights), "model.layers");
}

TEST_P(DenseTest, RefusesWhatItDoesNotImplement) {
  EXPECT_EQ(refusal("use_cache", true), "");
  EXPECT_NE(refusal("hidden_act", "gelu").find("hidden_act \"gelu\""), std::string::npos);
  EXPECT_NE(refusal("attention_bias", true).find("attention_bias true"), std::string::npos);
  EXPECT_NE(refusal("logit_scale", 0.5).find("logit_scale 0.5"), std::string::npos);
  EXPECT_NE(refusal("num_key_value_heads", 3).find("3 kv heads"), std::string::npos);
  EXPECT_NE(refusal("rope_scaling", {{"rope_type", "longrope"}, {"factor", 4.0}}).find("longrope"),
            std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Families, DenseTest, testing::Values("qwen3", "llama"),
                         [](const auto& family) { return family.param; });

class Qwen3Test : public DenseTest {};
TEST_P(Qwen3Test, RefusesSlidingWindows) {
  EXPECT_NE(refusal("use_sliding_window", true).find("use_sliding_window true"), std::string::npos);
  EXPECT_NE(refusal("layer_types", {"full_attention", "sliding_attention"}).find("sliding"),
            std::string::npos);
}
INSTANTIATE_TEST_SUITE_P(Families, Qwen3Test, testing::Values("qwen3"));

class LlamaTest : public DenseTest {};
TEST_P(LlamaTest, RefusesBiasesOfTheMlp) {
  EXPECT_NE(refusal("mlp_bias", true).find("mlp_bias true"), std::string::npos);
}
INSTANTIATE_TEST_SUITE_P(Families, LlamaTest, testing::Values("llama"));

}  // namespace
}  // namespace quern::models
