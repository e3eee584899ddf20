#include "base/yaml.h"

#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <string_view>

#include "base/error.h"

namespace quern {
namespace {

TEST(Yaml, ReadsScalarsAsPyYamlDoes) {
  JsonValue value = parse_yaml(
      "a: 1\nb: 1.5\nc: true\nd: null\ne: '1'\nf: [x, \"y z\", -3]\ng:\n  - h: 1e-3\n  - "
      "'re:.*lm_head'\n",
      "r.yaml");
  EXPECT_EQ(
      value,
      JsonValue::parse(
          R"({"a":1,"b":1.5,"c":true,"d":null,"e":"1","f":["x","y z",-3],"g":[{"h":0.001},"re:.*lm_head"]})"));
}

TEST(Yaml, IgnoresTags) {
  EXPECT_EQ(parse_yaml("device: !!python/object/apply:torch.device [cpu]\n", "r.yaml")["device"][0],
            "cpu");
}

TEST(Yaml, RefusesBombs) {
  EXPECT_THROW(parse_yaml("a: &x [1]\nb: *x\n", "r.yaml"), Error);
  EXPECT_THROW(parse_yaml("a: 1\na: 2\n", "r.yaml"), Error);
  EXPECT_THROW(parse_yaml(std::string(2000, '['), "r.yaml"), Error);
  EXPECT_THROW(parse_yaml(std::string(2u << 20, ' '), "r.yaml"), Error);
  EXPECT_THROW(parse_yaml("a: [1\nb", "r.yaml"), Error);
}

TEST(Yaml, WritesWhatItReads) {
  JsonValue value = JsonValue::parse(
      R"({"a":{"b":[1,2,"x"],"c":"1","d":"true","e":null,"f":"re:^a\\.b(?:\\..*)?$"},"g":[{"h":1}],"i":1e-06})");
  EXPECT_EQ(parse_yaml(to_yaml(value), "r.yaml"), value);
}

TEST(Yaml, RefusesBytesThatAreNoText) {
  for (std::string_view bytes : {std::string_view("a: \xff"), std::string_view("a: \xc0\xaf"),
                                 std::string_view("a: \xed\xa0\x80"), std::string_view("a: b\0", 5),
                                 std::string_view("a\0:\0 \0b\0", 8)}) {
    EXPECT_THROW(parse_yaml(bytes, "r.yaml"), Error) << bytes;
  }
  EXPECT_EQ(parse_yaml("a: \xc3\xa9", "r.yaml")["a"], "\xc3\xa9");
}

TEST(Yaml, LongKeysSurviveWriting) {
  for (const std::string& key :
       {std::string(2000, 'k'), std::string(400, '\x03'), std::string(200, 'k') + "\r"}) {
    const JsonValue value = {{"a", 1}, {key, {{key, 2}, {"b", {3, 4}}}}, {"c", 5}};
    EXPECT_EQ(parse_yaml(to_yaml(value), "r.yaml"), value);
  }
}

TEST(Yaml, MarkersOfDocumentsSurviveWriting) {
  for (const std::string text : {"---", "--- a", "...", "---  - 9"}) {
    EXPECT_EQ(parse_yaml(to_yaml(text), "r.yaml"), text);
    const JsonValue value = {{text, text}};
    EXPECT_EQ(parse_yaml(to_yaml(value), "r.yaml"), value);
  }
}

TEST(Yaml, NoEscapeMakesBytesThatAreNoText) {
  EXPECT_THROW(parse_yaml(R"(a: "\N")", "r.yaml"), Error);
  EXPECT_THROW(parse_yaml(R"("\_": a)", "r.yaml"), Error);
  EXPECT_EQ(parse_yaml(R"(a: "\u0085\u00a0")", "r.yaml")["a"], "\u0085\u00a0");
}

TEST(Yaml, InfinitiesAndControlCharactersSurviveWriting) {
  const double infinity = std::numeric_limits<double>::infinity();
  JsonValue value = {{"most", infinity}, {"least", -infinity}, {"list", {infinity, 1.5}}};
  for (char c = 1; c < ' '; ++c) {
    value[fmt::format("text {}", static_cast<int>(c))] = fmt::format("a{}b", c);
  }
  value["ends in a break"] = "a\n";
  value["looks infinite"] = ".inf";
  EXPECT_EQ(parse_yaml(to_yaml(value), "r.yaml"), value);
}

}  // namespace
}  // namespace quern
