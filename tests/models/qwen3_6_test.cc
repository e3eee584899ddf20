// Parity with transformers on the fixtures; the tolerances are those that their README measured
// (fp32: logits 2e-4, hidden states 1e-4 of their largest value).
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "base/error.h"
#include "base/file.h"
#include "tests/models/golden.h"

namespace quern::models {
namespace {

constexpr double kLogitTolerance = 2e-4;

class Qwen36Test : public testing::Test {
 protected:
  Qwen36Test() : golden_(test_data("qwen36") / "golden.safetensors") { prepare_torch(); }

  Tensor golden(const std::string& name) const { return golden_.tensor(name); }
  Tensor ids(const std::string& name) const { return golden(name).to(at::kLong); }

  checkpoint::SafetensorsFile golden_;
};

void expect_parity(const Whole& whole, const checkpoint::SafetensorsFile& golden, int prompts) {
  for (int i = 0; i < prompts; ++i) {
    const std::string p = "p" + std::to_string(i);
    Tensor tokens = golden.tensor(p + ".input_ids").to(at::kLong);
    nn::Pass pass = nn::Pass::whole({tokens.size(0)});
    EXPECT_LT(distance(whole.logits(tokens, pass), golden.tensor(p + ".logits")), kLogitTolerance)
        << p;
  }
}

TEST_F(Qwen36Test, LogitsAndEveryBlock) {
  Whole whole(test_data("qwen36"));
  expect_parity(whole, golden_, 3);
  Tensor tokens = ids("p1.input_ids");
  nn::Pass pass = nn::Pass::whole({tokens.size(0)});
  auto states = whole.hidden_states(tokens, pass);
  for (size_t i = 0; i < states.size(); ++i) {
    Tensor expected = golden("p1.hidden." + std::to_string(i));
    EXPECT_LT(distance(states[i], expected), 1e-4 * expected.abs().max().item<double>())
        << "block " << i;
  }
  EXPECT_LT(distance(whole.head->norm(states.back()), golden("p1.final_norm")),
            1e-4 * golden("p1.final_norm").abs().max().item<double>());
}

TEST_F(Qwen36Test, SequencesOfABatchAreIndependent) {
  Whole whole(test_data("qwen36"));
  Tensor a = ids("p0.input_ids"), b = ids("p2.input_ids");
  nn::Pass pass = nn::Pass::whole({a.size(0), b.size(0)});
  Tensor both = whole.logits(at::cat({a, b}), pass);
  EXPECT_LT(distance(both.slice(0, 0, a.size(0)), golden("p0.logits")), kLogitTolerance);
  EXPECT_LT(distance(both.slice(0, a.size(0)), golden("p2.logits")), kLogitTolerance);
}

TEST_F(Qwen36Test, GreedyContinuationWithCaches) {
  Whole whole(test_data("qwen36"));
  for (int i = 0; i < 3; ++i) {
    const std::string p = "p" + std::to_string(i);
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

TEST_F(Qwen36Test, AnyChunkingGivesTheSame) {
  Whole whole(test_data("qwen36"));
  Tensor tokens = ids("p2.input_ids");
  std::mt19937 random(7);
  for (int round = 0; round < 4; ++round) {
    nn::Caches caches;
    for (int64_t begin = 0; begin < tokens.size(0);) {
      const int64_t end = std::min<int64_t>(tokens.size(0), begin + 1 + random() % 30);
      nn::Pass pass = nn::Pass::next(begin, end - begin, caches);
      Tensor logits = whole.logits(tokens.slice(0, begin, end), pass);
      EXPECT_LT(distance(logits, golden("p2.logits").slice(0, begin, end)), kLogitTolerance)
          << begin << ".." << end;
      begin = end;
    }
  }
}

TEST_F(Qwen36Test, RecurrentAndConvolutionState) {
  Whole whole(test_data("qwen36"));
  Tensor tokens = ids("p1.input_ids");
  nn::Caches caches;
  nn::Pass pass = nn::Pass::next(0, tokens.size(0), caches);
  whole.logits(tokens, pass);
  EXPECT_LT(distance(caches.delta(0).state, golden("p1.layer0.recurrent_state")), 1e-4);
  // The golden holds four columns [channels, 4], we keep the three that the next token needs.
  EXPECT_LT(distance(caches.delta(0).conv, golden("p1.layer0.conv_state").slice(1, 1).t()), 1e-4);
}

TEST_F(Qwen36Test, DraftLayer) {
  Whole whole(test_data("qwen36"));
  ASSERT_TRUE(whole.draft);
  Tensor tokens = ids("mtp.input_ids");
  nn::Caches caches;
  nn::Pass pass = nn::Pass::next(0, tokens.size(0), caches);
  at::NoGradGuard no_grad;
  Tensor state = (*whole.draft)((*whole.stem)(tokens, pass), golden("p1.final_norm"), pass);
  EXPECT_LT(distance(state, golden("mtp.hidden")),
            1e-4 * golden("mtp.hidden").abs().max().item<double>());
  Tensor logits = whole.head->logits(state);
  EXPECT_LT(distance(logits, golden("mtp.logits")), kLogitTolerance);

  Tensor guess = logits[-1].argmax().reshape({1});
  nn::Pass second = nn::Pass::next(tokens.size(0), 1, caches);
  Tensor next = (*whole.draft)((*whole.stem)(guess, second), state.slice(0, -1), second);
  EXPECT_LT(distance(whole.head->logits(next)[0], golden("mtp.second_step_logits")),
            kLogitTolerance);
}

TEST_F(Qwen36Test, EveryTensorIsTakenOnceOrReported) {
  Whole whole(test_data("qwen36"));
  for (const std::string& name : whole.weights.untaken()) {
    EXPECT_TRUE(name.starts_with("model.visual.")) << name;
  }
}

TEST_F(Qwen36Test, OneTensorForEachExpert) {
  Whole whole(test_data("qwen36_split_experts"));
  checkpoint::SafetensorsFile golden(test_data("qwen36_split_experts") / "golden.safetensors");
  expect_parity(whole, golden, 1);
}

// The text model alone has its tensors below "model." and its settings at the top of config.json.
TEST_F(Qwen36Test, TextOnlyNames) {
  const auto folder = std::filesystem::temp_directory_path() / "quern-text-only-test";
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
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
  Whole whole(folder);
  checkpoint::SafetensorsFile golden(source / "golden.safetensors");
  expect_parity(whole, golden, 1);
  EXPECT_EQ(whole.model->blocks_path(whole.weights), "model.layers");
  std::filesystem::remove_all(folder);
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
      message("rope_parameters", {{"rope_type", "yarn"}, {"rope_theta", 1e4}}).find("\"yarn\""),
      std::string::npos);
  EXPECT_NE(message("layer_types", {"full_attention"}).find("1 entries for 4 layers"),
            std::string::npos);
  config["architectures"] = {"LlamaForCausalLM"};
  EXPECT_NE(message("hidden_act", "silu").find("known: Qwen3_5MoeForConditionalGeneration"),
            std::string::npos);
}

}  // namespace
}  // namespace quern::models
