// Parity of Sarvam with the fixture's reference implementation, under both sets of names.
#include <gtest/gtest.h>

#include "tests/models/sigmoid_router.h"

namespace quern::models {
namespace {

class SarvamMoeTest : public testing::Test {
 protected:
  SarvamMoeTest() : goldens_("sarvam") { prepare_torch(); }

  static void expect_refused(const std::string& text, const std::function<void(Changed&)>& change) {
    Changed changed("sarvam");
    change(changed);
    const std::string said = changed.refusal();
    EXPECT_NE(said.find(text), std::string::npos) << "\"" << text << "\" is not in: " << said;
  }

  static void split_query_key_value(Changed& changed, const std::string& attention) {
    for (int layer = 0; layer < 3; ++layer) {
      const std::string place = fmt::format("model.layers.{}.{}.", layer, attention);
      const auto parts =
          changed.tensors.at(place + "query_key_value.weight").split_with_sizes({256, 128, 128}, 0);
      changed.tensors.erase(place + "query_key_value.weight");
      changed.tensors[place + "q_proj.weight"] = parts[0].clone();
      changed.tensors[place + "k_proj.weight"] = parts[1].clone();
      changed.tensors[place + "v_proj.weight"] = parts[2].clone();
    }
  }

  Goldens goldens_;
};

TEST_F(SarvamMoeTest, LogitsAndEveryBlock) {
  const Whole whole(test_data("sarvam"));
  expect_logits_and_blocks(whole, goldens_);
  expect_near_bf16(whole, goldens_);
  EXPECT_TRUE(whole.weights.untaken().empty());
}

TEST_F(SarvamMoeTest, SequencesOfABatchAreIndependent) {
  expect_independent_sequences(Whole(test_data("sarvam")), goldens_);
}

TEST_F(SarvamMoeTest, GreedyContinuationWithCaches) {
  expect_greedy_cached(Whole(test_data("sarvam")), goldens_);
}

TEST_F(SarvamMoeTest, GreedyContinuationWithoutCaches) {
  expect_greedy_recomputed(Whole(test_data("sarvam")), goldens_);
}

TEST_F(SarvamMoeTest, AnyChunkingGivesTheSame) {
  expect_any_chunking(Whole(test_data("sarvam")), goldens_);
}

TEST_F(SarvamMoeTest, Router) {
  expect_router("sarvam", goldens_, "gate.expert_bias", {.k = 2, .factor = 2.5}, 1e-6);
}

TEST_F(SarvamMoeTest, SplitQueryKeyValue) {
  Changed changed("sarvam");
  split_query_key_value(changed, "attention");
  expect_greedy_recomputed(Whole(changed.write()), goldens_);
}

TEST_F(SarvamMoeTest, NamesOfTransformers) {
  Changed changed("sarvam");
  for (const auto& [from, to] :
       std::map<std::string, std::string>{{"word_embeddings", "embed_tokens"},
                                          {".attention.", ".self_attn."},
                                          {"self_attn.dense", "self_attn.o_proj"},
                                          {"self_attn.query_layernorm", "self_attn.q_norm"},
                                          {"self_attn.key_layernorm", "self_attn.k_norm"},
                                          {"gate.expert_bias", "gate.e_score_correction_bias"}})
    changed.rename(from, to);
  split_query_key_value(changed, "self_attn");
  for (const char* key : {"rope_theta", "rope_scaling", "score_function", "router_dtype",
                          "use_rmsnorm", "moe_router_enable_expert_bias", "use_qk_norm"})
    changed.config.erase(key);
  changed.config["architectures"] = {"SarvamMoeForCausalLM"};
  changed.config["attention_bias"] = false;
  changed.config["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 8e6}};
  const Whole whole(changed.write());
  expect_greedy_recomputed(whole, goldens_);
  EXPECT_TRUE(whole.weights.untaken().empty());
}

// The released checkpoint is in fp32 throughout.
TEST_F(SarvamMoeTest, CheckpointInFp32) {
  Changed changed("sarvam");
  for (auto& [name, tensor] : changed.tensors) tensor = tensor.to(at::kFloat);
  expect_greedy_recomputed(Whole(changed.write()), goldens_);
}

// The defaults of sizes come from the configuration class, and the tensors contradict them.
TEST_F(SarvamMoeTest, SizesThatAreLeftOut) {
  for (const char* key : {"vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size",
                          "num_attention_heads", "num_key_value_heads", "head_dim", "num_experts"})
    expect_refused("belong to different models",
                   [&](Changed& changed) { changed.config.erase(key); });
  expect_refused("no tensor model.layers.3.",
                 [](Changed& changed) { changed.config.erase("num_hidden_layers"); });
}

TEST_F(SarvamMoeTest, SettingsThatAreNotImplemented) {
  const std::vector<std::pair<std::string, JsonValue>> settings = {
      {"hidden_act", "relu"},
      {"score_function", "softmax"},
      {"use_rmsnorm", false},
      {"use_bias", true},
      {"use_qkv_bias", true},
      {"norm_head", true},
      {"moe_router_enable_expert_bias", false},
      {"partial_rotary_factor", 0.5},
      {"rotary_dim", 32},
      {"num_shared_experts", 0},
      {"sliding_window", 4096},
      {"router_dtype", "bf16"},
  };
  for (const auto& [key, value] : settings)
    expect_refused(key, [&](Changed& changed) { changed.config[key] = value; });
}

TEST_F(SarvamMoeTest, SettingsThatContradictTheTensors) {
  const std::string layers = "model.layers.";
  const std::vector<std::tuple<std::string, JsonValue, std::string>> settings = {
      {"num_attention_heads", 8, layers + "0.attention.query_key_value.weight: shape [512, 256]"},
      {"num_experts", 16, layers + "1.mlp.gate.weight: shape [8, 256]"},
      {"vocab_size", 1024, "model.word_embeddings.weight: shape [512, 256]"},
      {"use_qk_norm", false, layers + "0.attention.key_layernorm.weight"},
      {"num_hidden_layers", 2, layers + "2: config.json describes a model without this block"},
  };
  for (const auto& [key, value, text] : settings) {
    expect_refused(text, [&, name = key, wanted = value](Changed& c) { c.config[name] = wanted; });
  }
}

}  // namespace
}  // namespace quern::models
