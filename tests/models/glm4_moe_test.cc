// Parity of GLM-4.5 with transformers, its draft in both conventions, and settings that it refuses.
#include <gtest/gtest.h>

#include "tests/models/sigmoid_router.h"

namespace quern::models {
namespace {

class Glm4MoeTest : public testing::Test {
 protected:
  Glm4MoeTest() : goldens_("glm45") { prepare_torch(); }

  static std::string refused(const std::function<void(Changed&)>& change) {
    Changed changed("glm45");
    change(changed);
    return changed.refusal();
  }
  static void expect_refused(const std::string& text, const std::function<void(Changed&)>& change) {
    const std::string said = refused(change);
    EXPECT_NE(said.find(text), std::string::npos) << "\"" << text << "\" is not in: " << said;
  }

  // Draft logits of prompt 1, then those of one further guess.
  std::pair<Tensor, Tensor> draft_logits(const Whole& whole,
                                         const nn::DraftConvention& convention) {
    at::NoGradGuard no_grad;
    whole.draft->follow(convention);
    const Tensor tokens = goldens_.ids("mtp.input_ids");
    nn::Caches caches;
    nn::Pass first = nn::Pass::next(0, tokens.size(0), caches);
    const Tensor states = (*whole.draft)(whole.draft->embed(tokens, *whole.stem, first),
                                         goldens_.tensor("p1.final_norm"), first);
    const Tensor logits = whole.draft->logits(states, *whole.head);
    // The golden's second step follows transformers' first guess.
    const Tensor guess = goldens_.tensor("mtp.logits")[-1].argmax().reshape({1});
    nn::Pass second = nn::Pass::next(tokens.size(0), 1, caches);
    const Tensor further =
        (*whole.draft)(whole.draft->embed(guess, *whole.stem, second), states.slice(0, -1), second);
    return {logits, whole.draft->logits(further, *whole.head)[0]};
  }

  Goldens goldens_;
};

TEST_F(Glm4MoeTest, LogitsAndEveryBlock) {
  const Whole whole(test_data("glm45"));
  expect_logits_and_blocks(whole, goldens_);
  expect_near_bf16(whole, goldens_);
}

TEST_F(Glm4MoeTest, SequencesOfABatchAreIndependent) {
  expect_independent_sequences(Whole(test_data("glm45")), goldens_);
}

TEST_F(Glm4MoeTest, GreedyContinuationWithCaches) {
  expect_greedy_cached(Whole(test_data("glm45")), goldens_);
}

TEST_F(Glm4MoeTest, GreedyContinuationWithoutCaches) {
  expect_greedy_recomputed(Whole(test_data("glm45")), goldens_);
}

TEST_F(Glm4MoeTest, AnyChunkingGivesTheSame) {
  expect_any_chunking(Whole(test_data("glm45")), goldens_);
}

TEST_F(Glm4MoeTest, Router) {
  expect_router("glm45", goldens_, "gate.e_score_correction_bias", {.k = 2, .factor = 1.5}, 1e-5);
}

TEST_F(Glm4MoeTest, DraftAsInTransformers) {
  const Whole whole(test_data("glm45"));
  const auto [logits, further] = draft_logits(whole, nn::kTransformersDraft);
  goldens_.expect_logits("mtp.logits", logits);
  goldens_.expect_logits("mtp.second_step_logits_postnorm_feedback", further);
}

TEST_F(Glm4MoeTest, DraftAsInVllm) {
  const Whole whole(test_data("glm45"));
  goldens_.expect_logits("mtp.logits_row0_embedding_zeroed",
                         draft_logits(whole, nn::kVllmDraft).first);
  // The golden of the second step kept row 0.
  nn::DraftConvention convention = nn::kVllmDraft;
  convention.zero_first_embedding = false;
  const auto [logits, further] = draft_logits(whole, convention);
  goldens_.expect_logits("mtp.logits", logits);
  goldens_.expect_logits("mtp.second_step_logits_prenorm_feedback", further);
}

TEST_F(Glm4MoeTest, DraftStateBeforeItsNorm) {
  const Whole whole(test_data("glm45"));
  nn::DraftConvention convention = nn::kVllmDraft;
  convention.zero_first_embedding = false;
  whole.draft->follow(convention);
  const Tensor tokens = goldens_.ids("mtp.input_ids");
  nn::Pass pass = nn::Pass::whole({tokens.size(0)});
  at::NoGradGuard no_grad;
  goldens_.expect_states("mtp.block_output",
                         (*whole.draft)(whole.draft->embed(tokens, *whole.stem, pass),
                                        goldens_.tensor("p1.final_norm"), pass));
}

// Its copies of embedding and head equal the model's in this fixture.
TEST_F(Glm4MoeTest, DraftWithoutCopies) {
  Changed changed("glm45");
  ASSERT_EQ(changed.tensors.erase("model.layers.3.embed_tokens.weight"), 1u);
  ASSERT_EQ(changed.tensors.erase("model.layers.3.shared_head.head.weight"), 1u);
  goldens_.expect_logits("mtp.logits",
                         draft_logits(Whole(changed.write()), nn::kTransformersDraft).first);
}

TEST_F(Glm4MoeTest, DraftUsesItsOwnCopies) {
  for (const char* name : {"embed_tokens", "shared_head.head"}) {
    Changed changed("glm45");
    Tensor& copy = changed.tensors.at(fmt::format("model.layers.3.{}.weight", name));
    copy = copy.roll(1, 0);
    const Whole whole(changed.write());
    const Tensor logits = draft_logits(whole, nn::kTransformersDraft).first;
    EXPECT_GT(distance(logits, goldens_.tensor("mtp.logits")), 1) << name;
  }
}

TEST_F(Glm4MoeTest, NoDraft) {
  Changed changed("glm45");
  std::erase_if(changed.tensors,
                [](const auto& entry) { return entry.first.starts_with("model.layers.3."); });
  const Whole whole(changed.write());
  EXPECT_FALSE(whole.draft);
  EXPECT_TRUE(whole.weights.untaken().empty());
}

TEST_F(Glm4MoeTest, EveryTensorIsTaken) {
  const Whole whole(test_data("glm45"));
  EXPECT_TRUE(whole.weights.untaken().empty());
}

// GLM-4.5 itself normalizes queries and keys. Sarvam's fixture has the same arithmetic under other
// names.
TEST_F(Glm4MoeTest, NormedQueriesAndKeys) {
  Changed changed("sarvam");
  for (const auto& [from, to] :
       std::map<std::string, std::string>{{"word_embeddings", "embed_tokens"},
                                          {".attention.", ".self_attn."},
                                          {"self_attn.dense", "self_attn.o_proj"},
                                          {"self_attn.query_layernorm", "self_attn.q_norm"},
                                          {"self_attn.key_layernorm", "self_attn.k_norm"},
                                          {"self_attn.query_key_value", "self_attn.qkv_proj"},
                                          {"gate.expert_bias", "gate.e_score_correction_bias"}})
    changed.rename(from, to);
  const JsonValue sarvam = changed.config;
  changed.config = read_json(test_data("glm45") / "config.json");
  for (const char* key : {"first_k_dense_replace", "intermediate_size", "num_attention_heads",
                          "rms_norm_eps", "rope_theta", "routed_scaling_factor"})
    changed.config[key] = sarvam[key];
  changed.config["attention_bias"] = false;
  changed.config["partial_rotary_factor"] = 1.0;
  changed.config["use_qk_norm"] = true;
  Goldens goldens("sarvam");
  expect_greedy_recomputed(Whole(changed.write()), goldens);
}

TEST_F(Glm4MoeTest, TiedHead) {
  Changed untied("glm45"), tied("glm45");
  untied.tensors["lm_head.weight"] = untied.tensors["model.embed_tokens.weight"];
  tied.tensors.erase("lm_head.weight");
  tied.config["tie_word_embeddings"] = true;
  const Tensor tokens = goldens_.ids("p1.input_ids");
  nn::Pass a = nn::Pass::whole({tokens.size(0)}), b = a;
  EXPECT_EQ(
      distance(Whole(untied.write()).logits(tokens, a), Whole(tied.write()).logits(tokens, b)), 0);
}

TEST_F(Glm4MoeTest, CheckpointInFp32) {
  Changed changed("glm45");
  for (auto& [name, tensor] : changed.tensors) tensor = tensor.to(at::kFloat);
  expect_greedy_recomputed(Whole(changed.write()), goldens_);
}

TEST_F(Glm4MoeTest, NewSpellingOfRope) {
  Changed changed("glm45");
  for (const char* key : {"rope_theta", "rope_scaling", "partial_rotary_factor"})
    changed.config.erase(key);
  changed.config["rope_parameters"] = {
      {"rope_type", "default"}, {"rope_theta", 1000000.0}, {"partial_rotary_factor", 0.5}};
  expect_greedy_recomputed(Whole(changed.write()), goldens_);
}

// Keys missing from released files have the reference's defaults; keys added by fine-tunes are
// accepted.
TEST_F(Glm4MoeTest, MissingAndInertSettings) {
  Changed changed("glm45");
  for (const char* key : {"n_group", "topk_group", "norm_topk_prob", "n_shared_experts",
                          "first_k_dense_replace", "rms_norm_eps", "use_qk_norm"})
    changed.config.erase(key);
  changed.config["topk_method"] = "noaux_tc";
  changed.config["scoring_func"] = "sigmoid";
  changed.config["moe_router_dtype"] = "float32";
  changed.config["router_aux_loss_coef"] = 0.001;
  changed.config["decoder_sparse_step"] = 1;
  expect_greedy_recomputed(Whole(changed.write()), goldens_);
}

TEST_F(Glm4MoeTest, SettingsThatAreNotImplemented) {
  const std::vector<std::pair<std::string, JsonValue>> settings = {
      {"hidden_act", "gelu"},
      {"scoring_func", "softmax"},
      {"topk_method", "greedy"},
      {"num_nextn_predict_layers", 2},
      {"n_shared_experts", 0},
      {"sliding_window", 128},
      {"attn_logit_softcapping", 50.0},
      {"residual_multiplier", 0.5},
      {"n_group", 3},
      {"topk_group", 2},
      {"num_experts_per_tok", 9},
      {"rope_interleave", true},
  };
  for (const auto& [key, value] : settings)
    expect_refused(key, [&](Changed& changed) { changed.config[key] = value; });
  expect_refused("\"longrope\"", [](Changed& changed) {
    changed.config["rope_scaling"] = {{"rope_type", "longrope"}, {"factor", 4.0}};
  });
  // The defaults of sizes are those of GLM-4.5-Air, which these tensors are not.
  for (const auto& [key, text] :
       std::map<std::string, std::string>{{"num_hidden_layers", "model.layers.3."},
                                          {"n_routed_experts", "config.json implies [128, 256]"},
                                          {"hidden_size", "config.json implies [512, 4096]"}})
    expect_refused(text, [&, name = key](Changed& changed) { changed.config.erase(name); });
}

TEST_F(Glm4MoeTest, SettingsThatContradictTheTensors) {
  const std::string layers = "model.layers.";
  const std::vector<std::tuple<std::string, JsonValue, std::string>> settings = {
      {"num_attention_heads", 8, layers + "0.self_attn.q_proj.weight: shape [384, 256]"},
      {"num_key_value_heads", 3, layers + "0.self_attn.k_proj.weight: shape [128, 256]"},
      {"n_routed_experts", 4, layers + "1.mlp.gate.weight: shape [8, 256]"},
      {"n_routed_experts", 16, layers + "1.mlp.gate.weight: shape [8, 256]"},
      {"moe_intermediate_size", 64, layers + "1.mlp.experts.0.gate_proj.weight: shape [128, 256]"},
      {"n_shared_experts", 2, layers + "1.mlp.shared_experts.gate_proj.weight: shape [128, 256]"},
      {"vocab_size", 500, "model.embed_tokens.weight: shape [512, 256]"},
      {"hidden_size", 128, "model.embed_tokens.weight: shape [512, 256]"},
      {"attention_bias", false, layers + "0.self_attn.k_proj.bias"},
      {"use_qk_norm", true, layers + "0.self_attn.q_norm.weight"},
      {"num_hidden_layers", 2, layers + "2: config.json describes a model without this block"},
      {"num_hidden_layers", 4, layers + "3."},
      {"first_k_dense_replace", 2, layers + "1.mlp.gate_proj.weight"},
  };
  for (const auto& [key, value, text] : settings) {
    expect_refused(text, [&, name = key, wanted = value](Changed& c) { c.config[name] = wanted; });
  }
}

TEST_F(Glm4MoeTest, MissingAndExtraTensors) {
  const std::string gate = "model.layers.1.mlp.gate.e_score_correction_bias";
  expect_refused(gate, [&](Changed& changed) { changed.tensors.erase(gate); });
  const std::string extra = "model.layers.2.self_attn.sinks";
  expect_refused(extra, [&](Changed& changed) { changed.tensors[extra] = at::zeros({6}); });
}

}  // namespace
}  // namespace quern::models
