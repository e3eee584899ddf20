#include "prompt/tool_calls.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"

namespace quern::prompt {
namespace {

JsonValue opened(JsonValue message) {
  open_arguments(message, "messages[0]");
  return message;
}

JsonValue calling(const JsonValue& function) {
  return {{"role", "assistant"},
          {"tool_calls", JsonValue::array({{{"type", "function"}, {"function", function}}})}};
}

// The resulting arguments, and the log's text.
std::pair<std::string, std::string> arguments_of(const JsonValue& given) {
  testing::internal::CaptureStderr();
  const JsonValue message = opened(calling({{"name", "add"}, {"arguments", given}}));
  return {message["tool_calls"][0]["function"]["arguments"].dump(),
          testing::internal::GetCapturedStderr()};
}

using Said = std::pair<std::string, std::string>;

TEST(ToolCalls, TextBecomesTheObjectThatItHolds) {
  EXPECT_EQ(arguments_of("{\"item\": \"melon\", \"count\": 2}"),
            Said(R"({"item":"melon","count":2})", ""));
  EXPECT_EQ(arguments_of({{"b", 1}, {"a", {1, 2}}}), Said(R"({"b":1,"a":[1,2]})", ""));
}

TEST(ToolCalls, NoArgumentsAreAnEmptyObject) {
  for (const JsonValue& nothing : {JsonValue(""), JsonValue(" \n"), JsonValue(nullptr)})
    EXPECT_EQ(arguments_of(nothing), Said("{}", ""));
  EXPECT_EQ(opened(calling({{"name", "add"}}))["tool_calls"][0]["function"]["arguments"].dump(),
            "{}");
}

TEST(ToolCalls, BrokenArgumentsAreAnEmptyObjectAndAWarning) {
  for (const JsonValue& broken :
       {JsonValue("{\"a\": "), JsonValue("{\"a\": NaN}"), JsonValue("{\"a\": 1, \"a\": 2}"),
        JsonValue("[1]"), JsonValue("42"), JsonValue("null"), JsonValue({1, 2})}) {
    const auto [value, said] = arguments_of(broken);
    EXPECT_EQ(value, "{}") << broken;
    EXPECT_TRUE(said.starts_with("warning: messages[0].tool_calls[0].arguments: ")) << said;
    EXPECT_TRUE(said.ends_with("replaced by {}\n")) << said;
  }
}

TEST(ToolCalls, CallsWithoutAFunctionAreOpenedToo) {
  const JsonValue call = {{"name", "add"}, {"arguments", "{\"x\": 1}"}};
  const JsonValue message = opened({{"tool_calls", JsonValue::array({call})}});
  EXPECT_EQ(message["tool_calls"][0].dump(), R"({"name":"add","arguments":{"x":1}})");
}

TEST(ToolCalls, AnEmptyListIsRemoved) {
  EXPECT_EQ(opened({{"role", "user"}, {"tool_calls", JsonValue::array()}}).dump(),
            R"({"role":"user"})");
}

TEST(ToolCalls, OtherShapesStay) {
  for (const char* text : {"{\"role\":\"user\"}", "{\"tool_calls\":null}", "{\"tool_calls\":[3]}",
                           "{\"tool_calls\":\"x\"}", "[1]", "\"text\""})
    EXPECT_EQ(opened(parse_json(text, "message")).dump(), text);
}

}  // namespace
}  // namespace quern::prompt
