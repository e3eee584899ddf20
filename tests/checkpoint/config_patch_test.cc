#include "checkpoint/config_patch.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/checkpoint/scratch.h"

namespace quern::checkpoint {
namespace {
namespace fs = std::filesystem;

const JsonValue kQuantization =
    JsonValue::parse(R"({"quant_method":"compressed-tensors","ignore":["lm_head"],"empty":{}})");

std::string patched(std::string_view text, std::string_view key, const JsonValue& value) {
  return with_key(text, key, value, "config.json");
}

// Setting a key to the value it has changes nothing, whatever the file looks like.
TEST(ConfigPatch, WithoutAChangeEveryByteStays) {
  for (const char* folder : {"qwen36", "qwen36_split_experts", "tiny-qwen3.6"}) {
    const std::string text =
        slurp(fs::path(QUERN_SOURCE_DIR) / "tests/data" / folder / "config.json");
    const JsonValue config = parse_json(text, "config.json");
    for (const auto& [key, value] : config.items())
      EXPECT_EQ(patched(text, key, value), text) << folder << ": " << key;
  }
}

TEST(ConfigPatch, AddsAKeyAndLeavesTheRest) {
  const std::string text = slurp(fs::path(QUERN_SOURCE_DIR) / "tests/data/qwen36/config.json");
  const std::string result = patched(text, "quantization_config", kQuantization);
  const std::string added =
      "  \"quantization_config\": {\n    \"quant_method\": \"compressed-tensors\",\n    "
      "\"ignore\": [\n      \"lm_head\"\n    ],\n"
      "    \"empty\": {}\n  },\n";
  const size_t at = result.find(added);
  ASSERT_NE(at, std::string::npos) << result;
  EXPECT_EQ(result.substr(0, at) + result.substr(at + added.size()), text);
  EXPECT_EQ(result.find("  \"text_config\"", at), at + added.size()) << "sorted keys stay sorted";
  EXPECT_EQ(parse_json(result, "x").at("quantization_config"), kQuantization);
}

TEST(ConfigPatch, ReplacesWhereItStands) {
  const std::string text =
      "{\n  \"z\": 1e-06,\n  \"quantization_config\": {\"a\": [1, \"}\\\"\"]},\n  \"a\": 1.50\n}";
  EXPECT_EQ(
      patched(text, "quantization_config", JsonValue::parse(R"({"bits":4})")),
      "{\n  \"z\": 1e-06,\n  \"quantization_config\": {\n    \"bits\": 4\n  },\n  \"a\": 1.50\n}");
}

TEST(ConfigPatch, FollowsTheFilesOwnLayout) {
  const JsonValue value = JsonValue::parse(R"({"b":[1]})");
  EXPECT_EQ(patched("{\"z\":1,\"a\":2}", "k", value), "{\"z\":1,\"a\":2, \"k\": {\"b\":[1]}}");
  EXPECT_EQ(patched("{\n\t\"z\": 1,\n\t\"a\": 2\n}\n", "k", 3),
            "{\n\t\"z\": 1,\n\t\"a\": 2,\n\t\"k\": 3\n}\n");
  EXPECT_EQ(patched("{\n    \"a\": 1\n}", "k", value),
            "{\n    \"a\": 1,\n    \"k\": {\n        \"b\": [\n            1\n        ]\n    }\n}");
  EXPECT_EQ(patched("{}", "k", 1), "{\n  \"k\": 1\n}");
  EXPECT_EQ(patched(" { } ", "k", 1), " { \n  \"k\": 1\n} ");
  EXPECT_EQ(patched("{\r\n  \"a\": 1,\r\n  \"c\": 2\r\n}", "b", 1),
            "{\r\n  \"a\": 1,\r\n  \"b\": 1,\r\n  \"c\": 2\r\n}");
}

TEST(ConfigPatch, FindsKeysHoweverTheyAreSpelt) {
  EXPECT_EQ(patched(R"({"\u0061": {"a": 1}, "s": "\\\"a"})", "a", 2),
            R"({"\u0061": 2, "s": "\\\"a"})");
  EXPECT_EQ(patched(R"({"b": {"a": 1}, "c": [{"a": 2}]})", "a", 3),
            R"({"a": 3, "b": {"a": 1}, "c": [{"a": 2}]})");
}

TEST(ConfigPatch, RefusesWhatIsNoObject) {
  EXPECT_NE(error_of([] { patched("[1]", "a", 1); }).find("must be an object"), std::string::npos);
  EXPECT_NE(error_of([] { patched("{\"a\": 1", "a", 1); }).find("not valid JSON"),
            std::string::npos);
}

}  // namespace
}  // namespace quern::checkpoint
