#include "base/json.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/json_objects.h"

namespace quern {
namespace {

std::string error_of(const std::string& text) {
  try {
    parse_json(text, "x.json");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::invalid_input);
    return error.what();
  }
  return "";
}

TEST(Json, KeepsOrderAndNumbers) {
  std::string text = "{\n  \"b\": 1e-06,\n  \"a\": [\n    1,\n    \"é\"\n  ],\n  \"c\": null\n}\n";
  EXPECT_EQ(to_text(parse_json(text, "x.json")), text);
}

TEST(Json, RefusesWhatIsNotWhole) {
  EXPECT_NE(error_of("{\"a\": 1").find("x.json: not valid JSON at byte"), std::string::npos);
  EXPECT_NE(error_of("{} {}").find("not valid JSON"), std::string::npos);
  EXPECT_NE(error_of(std::string("{}\0 more", 8)).find("zero byte at 2"), std::string::npos);
  EXPECT_NE(error_of("{\"a\": 1, \"a\": 2}").find("\"a\" appears twice"), std::string::npos);
  EXPECT_NE(error_of(std::string(100, '[') + std::string(100, ']')).find("deeper than 64"),
            std::string::npos);
}

TEST(Json, ManyKeysAreNotQuadratic) {
  std::string text = "{";
  for (int i = 0; i < 300'000; ++i) text += (i ? ",\"k" : "\"k") + std::to_string(i) + "\":0";
  EXPECT_EQ(parse_json(text + "}", "x.json").size(), 300'000u);
}

TEST(Json, ObjectsAreBuiltAndWalkedWithoutSearching) {
  JsonValue object = JsonValue::object();
  for (int i = 0; i < 300'000; ++i) append(object, fmt::format("k{}", i), i);
  const auto all = entries(Json(object, "x.json"));
  ASSERT_EQ(all.size(), 300'000u);
  EXPECT_EQ(all[7].first, "k7");
  EXPECT_EQ(all[7].second.as<int>(), 7);
  EXPECT_EQ(all[7].second.path(), "x.json: k7");
  const JsonValue list = JsonValue::array();
  EXPECT_THROW(entries(Json(list, "x.json")), Error);
}

TEST(Json, ErrorsNameFileAndPath) {
  JsonValue document =
      parse_json(R"({"text_config": {"heads": "four", "sizes": [1, 2.5]}})", "config.json");
  Json config(document, "config.json");
  auto message = [&](auto&& read) -> std::string {
    try {
      read();
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(message([&] { config.at("text_config").get<int>("heads"); }),
            "config.json: text_config.heads must be a whole number, found string");
  EXPECT_EQ(message([&] { config.at("text_config").get<int>("layers"); }),
            "config.json: text_config.layers is missing");
  EXPECT_EQ(message([&] { config.at("text_config").get<std::vector<int>>("sizes"); }),
            "config.json: text_config.sizes[1] must be a whole number, found 2.5");
  EXPECT_EQ(config.at("text_config").get<int>("layers", 7), 7);
}

TEST(Json, WholeNumbersMayBeWrittenAsFloats) {
  const JsonValue document = parse_json(
      R"({"a": 200.0, "b": [1.0, -2e3], "c": 9007199254740992.0, "d": 1e300, "e": 3e9})", "x");
  const Json json(document, "x");
  EXPECT_EQ(json.get<int>("a"), 200);
  EXPECT_EQ(json.get<int64_t>("a"), 200);
  EXPECT_EQ(json.get<std::vector<int>>("b"), (std::vector<int>{1, -2000}));
  EXPECT_EQ(json.get<int64_t>("c"), int64_t{1} << 53);
  EXPECT_THROW(json.get<int64_t>("d"), Error);
  EXPECT_THROW(json.get<int>("e"), Error);
  EXPECT_EQ(json.get<int64_t>("e"), 3'000'000'000);
}

}  // namespace
}  // namespace quern
