// Long and unusual inputs, damaged files, streams cut at any place.
#include <gtest/gtest.h>

#include <fstream>

#include "base/error.h"
#include "base/file.h"
#include "prompt/pattern.h"
#include "prompt/stop_ids.h"
#include "prompt/tokenizer.h"
#include "tests/prompt/text_golden.h"

namespace quern::prompt {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> tokenizers() {
  std::vector<fs::path> files = {data_folder() / "../qwen36/tokenizer.json"};
  if (fs::exists(QUERN_UNPACKED_TOKENIZERS)) {
    for (const auto& entry : fs::directory_iterator(QUERN_UNPACKED_TOKENIZERS)) {
      files.push_back(entry.path());
    }
  }
  return files;
}

std::string repeated(const std::string& piece, size_t bytes) {
  std::string text;
  while (text.size() < bytes) text += piece;
  return text;
}

TEST(TokenizerLimits, AMebibyteOfOneKindComesBackWhole) {
  // A word, white space, combining marks (after a letter), and one that splits into pairs.
  const std::string inputs[] = {repeated("a", 1 << 20), repeated(" ", 1 << 20),
                                "x" + repeated("\xCC\x88", 1 << 20), repeated("\r\n \t", 1 << 20)};
  for (const fs::path& file : tokenizers()) {
    Tokenizer tokenizer(file);
    for (const std::string& text : inputs) {
      const std::vector<int32_t> ids = tokenizer.encode(text);
      EXPECT_GT(ids.size(), 0u);
      // Normalization may join the first mark to its letter.
      if (text[0] != 'x') {
        EXPECT_EQ(tokenizer.decode(ids), text) << file;
      }
    }
  }
}

TEST(TokenizerLimits, APatternThatGivesUpIsAnError) {
  std::string json = read_file(tokenizers()[0]);
  JsonValue document = parse_json(json, "tokenizer.json");
  document["pre_tokenizer"] = {{"type", "Split"},
                               {"pattern", {{"Regex", "(?=((a|aa)+)\\1$)(a+)+(?!x)b"}}},
                               {"behavior", "Isolated"},
                               {"invert", false}};
  Tokenizer tokenizer(document.dump(), "slow.json");
  try {
    tokenizer.encode(std::string(5000, 'a'));
    FAIL() << "the match must not end";
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()).find("slow.json: the tokenizer's splitting pattern failed"),
              0u)
        << error.what();
  }
}

TEST(TokenizerLimits, DamagedFilesAreNamed) {
  std::string json = read_file(tokenizers()[0]);
  const std::vector<std::string> damaged = {
      "",
      "{",
      "[]",
      "{\"model\": {}}",
      json.substr(0, json.size() / 2),
      "{\"version\": \"1.0\", \"model\": {\"type\": \"Nope\"}}"};
  for (const std::string& text : damaged) {
    try {
      Tokenizer tokenizer(text, "folder/tokenizer.json");
      FAIL() << text.substr(0, 40);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::invalid_input);
      EXPECT_EQ(std::string(error.what()).find("folder/tokenizer.json: "), 0u) << error.what();
    }
  }
  EXPECT_THROW(Tokenizer(fs::path("/nowhere/tokenizer.json")), Error);
  EXPECT_THROW(Tokenizer(tokenizers()[0]).encode("\xFF"), Error);
}

TEST(Tokenizer, LooksUpTokens) {
  Tokenizer tokenizer(data_folder() / "../qwen36");
  EXPECT_EQ(tokenizer.id("<|im_end|>"), 5);
  EXPECT_EQ(tokenizer.token(5), "<|im_end|>");
  EXPECT_EQ(tokenizer.id("no such token"), std::nullopt);
  EXPECT_EQ(tokenizer.token(100'000), std::nullopt);
  EXPECT_EQ(tokenizer.token(-1), std::nullopt);
}

TEST(Tokenizer, StopIdsAreTheUnion) {
  const fs::path folder = fs::path(testing::TempDir()) / "quern_stop_ids";
  fs::create_directories(folder);
  fs::copy_file(tokenizers()[0], folder / "tokenizer.json", fs::copy_options::overwrite_existing);
  Tokenizer tokenizer(folder);
  EXPECT_EQ(stop_ids(folder, tokenizer), std::vector<int32_t>{});
  std::ofstream(folder / "config.json") << R"({"text_config": {"eos_token_id": 7}})";
  EXPECT_EQ(stop_ids(folder, tokenizer), std::vector<int32_t>{7});
  std::ofstream(folder / "generation_config.json") << R"({"eos_token_id": [9, 1, 9]})";
  std::ofstream(folder / "tokenizer_config.json") << R"({"eos_token": {"content": "<|im_end|>"}})";
  EXPECT_EQ(stop_ids(folder, tokenizer), (std::vector<int32_t>{1, 5, 9}));
  std::ofstream(folder / "generation_config.json") << R"({"eos_token_id": "x"})";
  EXPECT_THROW(stop_ids(folder, tokenizer), Error);
  fs::remove_all(folder);
}

TEST(Detokenizer, StreamsWholeCharactersOnly) {
  for (const fs::path& file : tokenizers()) {
    Tokenizer tokenizer(file);
    for (const auto& [name, text] : golden()["strings"].items()) {
      const std::vector<int32_t> ids = tokenizer.encode(text.get<std::string>());
      Detokenizer stream(tokenizer, Show::all);
      std::string got;
      for (int32_t id : ids) {
        const std::string piece = stream.push(id);
        EXPECT_FALSE(piece.ends_with("\xEF\xBF\xBD")) << name;
        got += piece;
      }
      got += stream.flush();
      EXPECT_EQ(got, tokenizer.decode(ids)) << file << " " << name;
    }
  }
}

TEST(Detokenizer, BrokenBytesAreDeliveredInTheEnd) {
  Tokenizer tokenizer(data_folder() / "../qwen36");
  const std::vector<int32_t> heart = tokenizer.encode("\xF0\x9F\x98\x80");
  ASSERT_GT(heart.size(), 1u);
  Detokenizer stream(tokenizer);
  std::string got = stream.push(heart[0]);
  EXPECT_EQ(got, "");
  got += stream.flush();
  EXPECT_EQ(got, tokenizer.decode({heart.data(), 1}));
  // It restarts after a flush.
  for (int32_t id : heart) got = stream.push(id);
  EXPECT_EQ(got, "\xF0\x9F\x98\x80");
}

TEST(Pattern, MatchesAtTheStartOnly) {
  EXPECT_TRUE(Pattern("mlp").match("mlp.gate"));
  EXPECT_FALSE(Pattern("gate").match("mlp.gate"));
  EXPECT_TRUE(Pattern(".*gate").match("mlp.gate"));
  EXPECT_TRUE(Pattern("a|mlp").match("mlp.gate"));
  EXPECT_FALSE(Pattern("a|mlp$").match("mlp.gate"));
  EXPECT_TRUE(Pattern(R"((?!.*visual).*mlp\.experts\.\d+\.(?:up|down)_proj$)")
                  .match("x.mlp.experts.12.up_proj"));
  EXPECT_FALSE(Pattern(R"((?!.*visual).*up_proj$)").match("visual.up_proj"));
}

TEST(Pattern, Failures) {
  EXPECT_THROW(Pattern("(unclosed"), Error);
  EXPECT_THROW(Pattern(R"((a|aa)+(?!x)(\1)b)").match(std::string(2000, 'a')), Error);
}

}  // namespace
}  // namespace quern::prompt
