// inspect, generate, logits and perplexity on the trained tiny model.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "checkpoint/safetensors.h"
#include "tests/cli/run.h"

namespace quern::cli {
namespace {

std::vector<std::string> ask(const std::string& question) {
  return {"generate", model(),         "--prompt", question,    "--temperature",
          "0",        "--no-thinking", "--json",   "--threads", "1"};
}

TEST(InspectTest, FoldsBlocksAndCountsBytes) {
  const Ran text = quern({"inspect", model()});
  EXPECT_EQ(text.code, 0) << text.err;
  EXPECT_NE(text.out.find("14,482,480 bytes"), std::string::npos) << text.out;
  EXPECT_NE(text.out.find("Qwen3_5MoeForConditionalGeneration"), std::string::npos);
  EXPECT_LT(std::count(text.out.begin(), text.out.end(), '\n'), 124) << "as many lines as tensors";

  const auto json = nlohmann::json::parse(quern({"inspect", model(), "--json"}).out);
  EXPECT_EQ(json.at("tensors"), 124);
  EXPECT_EQ(json.at("bytes"), 14482480);
  int64_t tensors = 0, bytes = 0;
  bool experts = false;
  for (const auto& group : json.at("groups")) {
    tensors += group.at("count").get<int64_t>();
    bytes += group.at("bytes").get<int64_t>();
    experts |= group.at("pattern") == "model.language_model.layers.*.mlp.experts.gate_up_proj" &&
               group.at("count") == 4;
  }
  EXPECT_EQ(tensors, 124);
  EXPECT_EQ(bytes, 14482480);
  EXPECT_TRUE(experts);
}

TEST(GenerateTest, AnswersFromTheTrainedModel) {
  const Ran ran = quern(ask("What is 17 + 25?"));
  ASSERT_EQ(ran.code, 0) << ran.err;
  const auto json = nlohmann::json::parse(ran.out);
  EXPECT_NE(json.at("text").get<std::string>().find("42"), std::string::npos) << ran.out;
  EXPECT_EQ(json.at("finish"), "stop");
}

TEST(GenerateTest, StreamsTheSameText) {
  auto args = ask("What is 17 + 25?");
  std::erase(args, "--json");
  const Ran ran = quern(args);
  EXPECT_EQ(
      ran.out,
      nlohmann::json::parse(quern(ask("What is 17 + 25?")).out).at("text").get<std::string>() +
          "\n");
  EXPECT_NE(ran.err.find("tokens/s"), std::string::npos);
}

TEST(GenerateTest, SeedsDecide) {
  auto answer = [](const char* seed) {
    return quern({"generate", model(), "--raw", "--prompt", "Once", "--temperature", "3",
                  "--max-tokens", "24", "--top-k", "0", "--top-p", "1", "--seed", seed})
        .out;
  };
  EXPECT_EQ(answer("1"), answer("1"));
  EXPECT_NE(answer("1"), answer("2"));
}

// A token that tokenizer.json prepends to every text is prepended to a raw prompt, as in
// transformers and vLLM's completions; a chat template writes such tokens itself.
TEST(GenerateTest, RawTextBeginsAsTheTokenizerSays) {
  const Scratch scratch;
  const std::string folder = copy_of(model(), scratch / "model");
  auto tokens = [&](const char* how) {
    const Ran ran = quern({"generate", folder, how, "--prompt", "Once", "--max-tokens", "1",
                           "--json", "--threads", "1"});
    EXPECT_EQ(ran.code, 0) << ran.err;
    return nlohmann::json::parse(ran.out).at("prompt_tokens").get<int>();
  };
  const int raw = tokens("--raw"), chat = tokens("--no-thinking");
  auto tokenizer = nlohmann::ordered_json::parse(slurp(folder + "/tokenizer.json"));
  const std::string first = "<|endoftext|>";
  const auto text = nlohmann::json{{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const auto special = nlohmann::json{{"SpecialToken", {{"id", first}, {"type_id", 0}}}};
  tokenizer["post_processor"] = {
      {"type", "TemplateProcessing"},
      {"single", {special, text}},
      {"pair", {special, text, {{"Sequence", {{"id", "B"}, {"type_id", 1}}}}}},
      {"special_tokens", {{first, {{"id", first}, {"ids", {1688}}, {"tokens", {first}}}}}}};
  std::ofstream(folder + "/tokenizer.json") << tokenizer.dump();
  EXPECT_EQ(tokens("--raw"), raw + 1);
  EXPECT_EQ(tokens("--no-thinking"), chat);
}

TEST(GenerateTest, LinesOfStandardInputAreOneConversation) {
  std::vector<std::string> args = {"generate", model(), "--temperature", "0", "--no-thinking"};
  const Ran ran = quern(args, "What is 17 + 25?\n\nWhat is 3 + 4?\n");
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_NE(ran.out.find("42"), std::string::npos);
  EXPECT_NE(ran.out.find("7"), std::string::npos);
  EXPECT_EQ(ran.out.find("> "), std::string::npos) << "a prompt, though nobody sits there";
  EXPECT_EQ(ran.err.find("> "), std::string::npos);
}

TEST(GenerateTest, StopsAtMaxTokens) {
  auto args = ask("What is 17 + 25?");
  args.insert(args.end(), {"--max-tokens", "2"});
  const auto json = nlohmann::json::parse(quern(args).out);
  EXPECT_EQ(json.at("tokens"), 2);
  EXPECT_EQ(json.at("finish"), "length");
}

TEST(LogitsTest, OneTensorAList) {
  const Scratch scratch;
  const std::string ids = scratch.write("ids.json", "[[1, 2, 3], [4]]");
  const std::string out = (scratch / "out.safetensors").string();
  const Ran ran = quern({"logits", model(), "--tokens", ids, "-o", out, "--dtype", "float32"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  const checkpoint::SafetensorsFile file(out);
  EXPECT_EQ(file.info("logits.0").shape, (std::vector<int64_t>{3, 2048}));
  EXPECT_EQ(file.info("logits.1").shape, (std::vector<int64_t>{1, 2048}));
  EXPECT_EQ(file.info("logits.1").dtype, at::kFloat);
  const std::string bad = scratch.write("bad.json", "[[1, 99999]]");
  EXPECT_EQ(quern({"logits", model(), "--tokens", bad, "-o", out}).code, 4);
}

TEST(PerplexityTest, OfATextAndAgainstItself) {
  const Scratch scratch;
  const std::string text =
      scratch.write("text.txt", "Tom has 3 apples. He buys 4 more apples. Now he has 7 apples.\n");
  const auto alone =
      nlohmann::json::parse(quern({"perplexity", model(), "--text", text, "--json"}).out);
  EXPECT_GT(alone.at("perplexity").get<double>(), 1);
  const Ran ran = quern({"perplexity", model(), "--text", text, "--reference", model(), "--json"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  EXPECT_NEAR(nlohmann::json::parse(ran.out).at("mean_kld").get<double>(), 0, 1e-9);
  EXPECT_EQ(quern({"perplexity", model(), "--text", text, "--window", "1"}).code / 2, 1)
      << "usage or invalid input, not a crash";
}

}  // namespace
}  // namespace quern::cli
