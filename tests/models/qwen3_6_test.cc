// Parity of Qwen3.6 with transformers, both ways to store experts and both prefixes of names, and
// settings that it refuses.
#include <gtest/gtest.h>

#include "tests/models/parity.h"

namespace quern::models {
namespace {

class Qwen36Test : public testing::Test {
 protected:
  Qwen36Test() : goldens_("qwen36") { prepare_torch(); }

  Tensor golden(const std::string& name) const { return goldens_.tensor(name); }
  Tensor ids(const std::string& name) const { return goldens_.ids(name); }

  Goldens goldens_;
};

TEST_F(Qwen36Test, LogitsAndEveryBlock) {
  const Whole whole(test_data("qwen36"));
  expect_logits_and_blocks(whole, goldens_);
  expect_near_bf16(whole, goldens_);
}

TEST_F(Qwen36Test, SequencesOfABatchAreIndependent) {
  expect_independent_sequences(Whole(test_data("qwen36")), goldens_);
}

TEST_F(Qwen36Test, GreedyContinuationWithCaches) {
  expect_greedy_cached(Whole(test_data("qwen36")), goldens_);
}

TEST_F(Qwen36Test, GreedyContinuationWithoutCaches) {
  expect_greedy_recomputed(Whole(test_data("qwen36")), goldens_);
}

TEST_F(Qwen36Test, AnyChunkingGivesTheSame) {
  expect_any_chunking(Whole(test_data("qwen36")), goldens_);
}

TEST_F(Qwen36Test, RecurrentAndConvolutionState) {
  Whole whole(test_data("qwen36"));
  Tensor tokens = ids("p1.input_ids");
  nn::Caches caches;
  nn::Pass pass = nn::Pass::next(0, tokens.size(0), caches);
  whole.logits(tokens, pass);
  goldens_.expect("p1.layer0.recurrent_state",
                  distance(caches.delta(0).states[0], golden("p1.layer0.recurrent_state")), 1e-4);
  // The golden holds four columns [channels, 4], we keep the three that the next token needs.
  goldens_.expect("p1.layer0.conv_state",
                  distance(caches.delta(0).conv[0], golden("p1.layer0.conv_state").slice(1, 1).t()),
                  1e-4);
}

TEST_F(Qwen36Test, DraftLayer) {
  Whole whole(test_data("qwen36"));
  ASSERT_TRUE(whole.draft);
  Tensor tokens = ids("mtp.input_ids");
  nn::Caches caches;
  nn::Pass pass = nn::Pass::next(0, tokens.size(0), caches);
  at::NoGradGuard no_grad;
  Tensor state = (*whole.draft)((*whole.stem)(tokens, pass), golden("p1.final_norm"), pass);
  goldens_.expect_states("mtp.hidden", state);
  Tensor logits = whole.draft->logits(state, *whole.head);
  goldens_.expect_logits("mtp.logits", logits);

  Tensor guess = logits[-1].argmax().reshape({1});
  nn::Pass second = nn::Pass::next(tokens.size(0), 1, caches);
  Tensor next = (*whole.draft)((*whole.stem)(guess, second), state.slice(0, -1), second);
  goldens_.expect_logits("mtp.second_step_logits", whole.draft->logits(next, *whole.head)[0]);
}

TEST_F(Qwen36Test, EveryTensorIsTakenOnceOrReported) {
  Whole whole(test_data("qwen36"));
  for (const std::string& name : whole.weights.untaken()) {
    EXPECT_TRUE(name.starts_with("model.visual.")) << name;
  }
}

TEST_F(Qwen36Test, OneTensorForEachExpert) {
  Goldens goldens("qwen36_split_experts");
  expect_logits_of(Whole(test_data("qwen36_split_experts")), goldens, "p0");
}

// The text model alone has its tensors below "model." and its settings at the top of config.json.
TEST_F(Qwen36Test, TextOnlyNames) {
  const Scratch folder;
  const auto source = test_data("qwen36_split_experts");
  JsonValue config = read_json(source / "config.json");
  JsonValue text = config["text_config"];
  text["architectures"] = {"Qwen3_5MoeForCausalLM"};
  write_file(folder / "config.json", to_text(text));
  // Renames within the header; its padded length stays the same.
  std::string bytes = read_file(source / "model.safetensors");
  const std::string from = "model.language_model.", to = "model.";
  const size_t header = 8 + *reinterpret_cast<const uint64_t*>(bytes.data());
  std::string names = bytes.substr(8, header - 8);
  size_t shorter = 0;
  for (size_t at = 0; (at = names.find(from, at)) != std::string::npos;
       shorter += from.size() - to.size()) {
    names.replace(at, from.size(), to);
  }
  write_file(folder / "model.safetensors",
             bytes.substr(0, 8) + names + std::string(shorter, ' ') + bytes.substr(header));
  Whole whole(folder.path());
  Goldens goldens("qwen36_split_experts");
  expect_logits_of(whole, goldens, "p0");
  EXPECT_EQ(whole.model->blocks_path(whole.weights), "model.layers");
}

TEST_F(Qwen36Test, RefusesWhatItDoesNotImplement) {
  JsonValue config = read_json(test_data("qwen36") / "config.json");
  auto message = [&](const std::string& key, const JsonValue& value) -> std::string {
    JsonValue changed = config;
    changed["text_config"][key] = value;
    try {
      make_model(Json(changed, "config.json"));
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_NE(message("hidden_act", "gelu").find("hidden_act \"gelu\" is not implemented"),
            std::string::npos);
  EXPECT_NE(
      message("rope_parameters", {{"rope_type", "longrope"}, {"rope_theta", 1e4}}).find("longrope"),
      std::string::npos);
  EXPECT_NE(message("layer_types", {"full_attention"}).find("1 entries for 4 layers"),
            std::string::npos);
  for (const char* key : {"linear_key_head_dim", "linear_value_head_dim"})
    EXPECT_NE(message(key, 24).find("must be multiples of 16"), std::string::npos) << key;
  config["architectures"] = {"FalconForCausalLM"};
  const std::string unknown = message("hidden_act", "silu");
  EXPECT_NE(unknown.find("FalconForCausalLM is not supported"), std::string::npos);
  EXPECT_NE(unknown.find("Qwen3_5MoeForConditionalGeneration"), std::string::npos);
}

}  // namespace
}  // namespace quern::models
