// The checkpoints that tools/make_dense_fixtures.py and make_gemma4_moe_fixture.py made, against
// transformers' results; and settings that the dense models refuse.
#include <gtest/gtest.h>

#include "tests/models/parity.h"

namespace quern::models {
namespace {

class MadeFixtureTest : public testing::TestWithParam<std::string> {
 protected:
  MadeFixtureTest() : folder_(test_data(GetParam())), goldens_(GetParam()) { prepare_torch(); }

  // The model's message for a config.json with one changed key; "" if accepted.
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
  Goldens goldens_;
};

TEST_P(MadeFixtureTest, LogitsAndEveryBlock) {
  Whole whole(folder_);
  for (const std::string p : {"p0", "p1"}) {
    Tensor tokens = goldens_.ids(p + ".input_ids");
    nn::Pass pass = nn::Pass::whole({tokens.size(0)});
    const auto states = whole.hidden_states(tokens, pass);
    for (size_t i = 0; i + 1 < states.size(); ++i)
      goldens_.expect_states(fmt::format("{}.hidden.{}", p, i), states[i]);
    Tensor normed = whole.head->norm(states.back());
    goldens_.expect_states(p + ".final_norm", normed);
    goldens_.expect_logits(p + ".logits", whole.head->logits(normed));
  }
}

TEST_P(MadeFixtureTest, GreedyContinuationWithCaches) {
  expect_greedy_cached(Whole(folder_), goldens_, {"p0", "p1"});
}

TEST_P(MadeFixtureTest, GreedyContinuationWithoutCaches) {
  expect_greedy_recomputed(Whole(folder_), goldens_, {"p0", "p1"});
}

TEST_P(MadeFixtureTest, AnyChunkingGivesTheSame) {
  expect_any_chunking(Whole(folder_), goldens_, "p1");
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
