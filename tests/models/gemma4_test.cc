// Parity of Gemma 4's text model with transformers, with both forms of its config, with and without
// the unused matrices; and settings that it refuses.
#include <gtest/gtest.h>

#include "tests/models/parity.h"

namespace quern::models {
namespace {

class Gemma4Test : public testing::Test {
 protected:
  Gemma4Test() : goldens_("gemma4"), resaved_("gemma4_resaved") { prepare_torch(); }

  static void expect_refused(const std::string& text, const std::string& key,
                             const JsonValue& value) {
    Changed changed("gemma4_resaved");
    changed.config["text_config"][key] = value;
    const std::string said = changed.refusal();
    EXPECT_NE(said.find(text), std::string::npos) << "\"" << text << "\" is not in: " << said;
  }

  Goldens goldens_, resaved_;
};

TEST_F(Gemma4Test, LogitsAndEveryBlock) {
  const Whole whole(test_data("gemma4"));
  expect_logits_and_blocks(whole, goldens_);
  expect_near_bf16(whole, goldens_);
}

TEST_F(Gemma4Test, SequencesOfABatchAreIndependent) {
  expect_independent_sequences(Whole(test_data("gemma4")), goldens_);
}

TEST_F(Gemma4Test, GreedyContinuationWithCaches) {
  expect_greedy_cached(Whole(test_data("gemma4")), goldens_);
}

TEST_F(Gemma4Test, GreedyContinuationWithoutCaches) {
  expect_greedy_recomputed(Whole(test_data("gemma4")), goldens_);
}

TEST_F(Gemma4Test, AnyChunkingGivesTheSame) {
  expect_any_chunking(Whole(test_data("gemma4")), goldens_);
}

// Written by transformers 5: with per_layer_config and without unused matrices.
TEST_F(Gemma4Test, Resaved) {
  const Whole whole(test_data("gemma4_resaved"));
  for (const char* p : {"p0", "p1", "p2"}) {
    const Tensor prompt = resaved_.ids(fmt::format("{}.input_ids", p));
    nn::Pass pass = nn::Pass::whole({prompt.size(0)});
    resaved_.expect_logits(fmt::format("{}.logits", p), whole.logits(prompt, pass));
    const Tensor expected = resaved_.ids(fmt::format("{}.greedy_ids", p));
    const Tensor tokens = at::cat({prompt, expected.slice(0, 0, -1)});
    nn::Pass longer = nn::Pass::whole({tokens.size(0)});
    const Tensor steps = whole.logits(tokens, longer).slice(0, prompt.size(0) - 1);
    EXPECT_TRUE(steps.argmax(-1).equal(expected)) << p;
  }
  EXPECT_TRUE(whole.weights.untaken().empty());
  EXPECT_TRUE(whole.model->unused(whole.weights).empty());
}

// The text model alone has its tensors below "model." and its settings at the top of config.json.
TEST_F(Gemma4Test, TextOnlyNames) {
  Changed changed("gemma4_resaved");
  changed.rename("model.language_model.", "model.");
  JsonValue text = changed.config["text_config"];
  text["architectures"] = {"Gemma4ForCausalLM"};
  changed.config = text;
  const Whole whole(changed.write());
  expect_logits_of(whole, resaved_, "p0");
  EXPECT_EQ(whole.model->blocks_path(whole.weights), "model.layers");
  EXPECT_FALSE(whole.model->image_tokens());
  EXPECT_TRUE(whole.weights.untaken().empty());
}

// The blocks' own embeddings are not an output of a block; the test computes them from the stem's
// shared tensors and the checkpoint.
TEST_F(Gemma4Test, PerLayerInputs) {
  at::NoGradGuard no_grad;
  const Whole whole(test_data("gemma4"));
  const Tensor tokens = goldens_.ids("p1.input_ids");
  nn::Pass pass = nn::Pass::whole({tokens.size(0)});
  (*whole.stem)(tokens, pass);
  const nn::Weights text = whole.weights / "model" / "language_model";
  const nn::Norm norm = text.norm("per_layer_projection_norm", 128, 1e-6);
  std::vector<Tensor> inputs;
  for (int i = 0; i < 6; ++i) {
    const nn::Linear projection =
        text.linear_rows("per_layer_model_projection", 768, 256, 128 * i, 128);
    const nn::Embedding table =
        text.embedding("embed_tokens_per_layer", 512, 768).columns(128 * i, 128);
    const Tensor context = norm(projection(pass.shared.at("embedded")) / 16.0);
    inputs.push_back((context + table(pass.shared.at("tokens")) * std::sqrt(128.0)) / std::sqrt(2));
  }
  goldens_.expect_states("p1.per_layer_inputs", at::stack(inputs, 1));
}

// Listed as one linear, although each block multiplies by its own rows.
TEST_F(Gemma4Test, ListsEveryLinearOnce) {
  const auto source = std::make_shared<nn::Source>(test_data("gemma4"));
  std::vector<nn::LinearSite> sites, slices;
  const nn::Weights weights = nn::Weights(source).listing(&sites, &slices);
  const auto model = make_model(source->files.config());
  model->stem(weights);
  for (int i = 0; i < model->blocks(); ++i) model->block(weights, i);
  model->head(weights);
  std::map<std::string, int> times;
  for (const nn::LinearSite& site : sites) ++times[site.name];
  for (const auto& [name, count] : times) EXPECT_EQ(count, 1) << name;
  EXPECT_EQ(times.count("model.language_model.per_layer_model_projection"), 1u);
  ASSERT_EQ(slices.size(), 6u);
  for (const nn::LinearSite& slice : slices) {
    EXPECT_EQ(slice.name, "model.language_model.per_layer_model_projection");
    EXPECT_EQ(slice.weight.rows(), 128);
  }
  // Six blocks of 9 linears (the dead ones among them), the projection and the head.
  EXPECT_EQ(sites.size(), 6u * 9 + 2);
}

TEST_F(Gemma4Test, NamesWhatNoPassReads) {
  const Whole whole(test_data("gemma4"));
  std::vector<std::string> expected;
  for (int layer : {4, 5}) {
    for (const char* name : {"k_proj", "v_proj", "k_norm"})
      expected.push_back(
          fmt::format("model.language_model.layers.{}.self_attn.{}.weight", layer, name));
  }
  EXPECT_EQ(whole.model->unused(whole.weights), expected);
  for (const std::string& name : whole.weights.untaken()) {
    EXPECT_TRUE(name.find("vision") != std::string::npos || name.find("audio") != std::string::npos)
        << name;
  }
  // Other numbers in them must not change the results.
  Changed changed("gemma4");
  for (const std::string& name : expected) changed.tensors[name] = changed.tensors[name] * -3;
  const Whole other(changed.write());
  const Tensor tokens = goldens_.ids("p1.input_ids");
  nn::Pass a = nn::Pass::whole({tokens.size(0)}), b = nn::Pass::whole({tokens.size(0)});
  EXPECT_TRUE(whole.logits(tokens, a).equal(other.logits(tokens, b)));
}

// A sliding layer keeps its window and the spare space of a growing buffer.
TEST_F(Gemma4Test, CachesOfSlidingLayersStayShort) {
  at::NoGradGuard no_grad;
  const Whole whole(test_data("gemma4"));
  nn::Caches caches;
  int64_t full = 0;
  for (int64_t past = 0; past < 2000; past += 100) {
    nn::Pass pass = nn::Pass::next(past, 100, caches);
    whole.hidden_states(at::randint(32, 512, {100}), pass);
    EXPECT_LE(caches.kv(0).blocks() * 16, 3 * (16 + 100));
    full = caches.kv(1).blocks() * 16;
  }
  EXPECT_GE(full, 2000);
  EXPECT_LT(caches.bytes(0) * 5, caches.bytes(1));
  EXPECT_EQ(caches.bytes(4), 0) << "a layer that reads the keys of another keeps none";
}

// transformers' defaults and the sister models' settings.
TEST_F(Gemma4Test, SpellingsOfTheSameModel) {
  const Tensor tokens = goldens_.ids("p1.input_ids");
  auto logits = [&](const Changed& changed) {
    const Whole whole(changed.write());
    nn::Pass pass = nn::Pass::whole({tokens.size(0)});
    return whole.logits(tokens, pass);
  };
  Changed defaults("gemma4");
  for (const char* key : {"rope_parameters", "pad_token_id", "bos_token_id", "rms_norm_eps"})
    defaults.config["text_config"].erase(key);
  goldens_.expect_logits("p1.logits", logits(defaults));

  Changed padded("gemma4");
  padded.config["text_config"].erase("global_head_dim");
  for (const char* layer : {"01", "03", "05"})
    padded.config["text_config"]["per_layer_config"][layer] = {{"head_dim", 128}};
  goldens_.expect_logits("p1.logits", logits(padded));
}

// No per-layer embeddings, values that are the raw keys, one key head in full layers, wide MLPs in
// the layers that share: they load, run, and agree with their caches.
TEST_F(Gemma4Test, SisterModels) {
  at::NoGradGuard no_grad;
  Changed changed("gemma4_resaved");
  JsonValue& text = changed.config["text_config"];
  text["hidden_size_per_layer_input"] = 0;
  text["attention_k_eq_v"] = true;
  text["use_double_wide_mlp"] = true;
  const std::string blocks = "model.language_model.layers.";
  changed.tensors.erase(blocks + "1.self_attn.v_proj.weight");
  for (int layer : {2, 3, 4}) {
    const std::string mlp = fmt::format("{}{}.mlp.", blocks, layer);
    for (const char* name : {"gate_proj.weight", "up_proj.weight"})
      changed.tensors[mlp + name] = changed.tensors[mlp + name].repeat({2, 1});
    changed.tensors[mlp + "down_proj.weight"] =
        changed.tensors[mlp + "down_proj.weight"].repeat({1, 2}).div(2);
  }
  std::erase_if(changed.tensors, [](const auto& entry) {
    return entry.first.find("per_layer") != std::string::npos;
  });
  const Whole whole(changed.write());
  EXPECT_TRUE(whole.weights.untaken().empty());
  const Tensor tokens = resaved_.ids("p2.input_ids");
  nn::Pass pass = nn::Pass::whole({tokens.size(0)});
  const Tensor expected = whole.logits(tokens, pass);
  nn::Caches caches;
  for (int64_t begin = 0; begin < tokens.size(0); begin += 7) {
    nn::Pass next = nn::Pass::next(begin, 7, caches);
    EXPECT_LT(
        distance(whole.logits(tokens.narrow(0, begin, 7), next), expected.narrow(0, begin, 7)),
        kLogitTolerance);
  }
}

// Every tensor of a block with experts matters: other numbers in it change the logits.
TEST_F(Gemma4Test, EveryTensorOfABlockOfExpertsCounts) {
  Goldens goldens("gemma4_moe");
  const Tensor tokens = goldens.ids("p1.input_ids");
  auto logits = [&](const Changed& changed) {
    const Whole whole(changed.write());
    nn::Pass pass = nn::Pass::whole({tokens.size(0)});
    return whole.logits(tokens, pass);
  };
  Changed changed("gemma4_moe");
  const Tensor expected = logits(changed);
  int tried = 0;
  for (auto& [name, tensor] : changed.tensors) {
    if (name.find("layers.1.") == std::string::npos || tensor.numel() == 1) continue;
    const Tensor original = tensor;
    tensor = original.roll(1, 0);
    EXPECT_GT(distance(logits(changed), expected), 10 * kLogitTolerance) << name;
    tensor = original;
    ++tried;
  }
  EXPECT_GE(tried, 20);
}

TEST_F(Gemma4Test, RefusesWhatItDoesNotImplement) {
  expect_refused("hidden_activation \"silu\" is not implemented", "hidden_activation", "silu");
  expect_refused("top_k_experts is 0, which is impossible with 0 experts", "enable_moe_block",
                 true);
  expect_refused("attention_bias true", "attention_bias", true);
  expect_refused("use_bidirectional_attention \"all\"", "use_bidirectional_attention", "all");
  expect_refused("attn_logit_softcapping", "attn_logit_softcapping", 50.0);
  expect_refused("4 entries for 5 layers", "layer_types",
                 {"full_attention", "full_attention", "full_attention", "full_attention"});
  expect_refused("layer type \"chunked_attention\"", "layer_types",
                 {"chunked_attention", "full_attention", "full_attention", "full_attention",
                  "full_attention"});
  expect_refused("no earlier layer has its type", "num_kv_shared_layers", 5);
  expect_refused("\"sliding_window\" is not implemented", "per_layer_config",
                 {{"1", {{"sliding_window", 4}}}});
  expect_refused("shape [32, 64], but config.json", "head_dim", 32);
  expect_refused("vocab_size", "vocab_size", 256);
}

}  // namespace
}  // namespace quern::models
