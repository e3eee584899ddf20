#include "serve/api_request.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace quern::serve {
namespace {

JsonValue with_calls(const JsonValue& calls) {
  return {{"messages", JsonValue::array({{{"role", "user"}, {"content", "x"}},
                                         {{"role", "assistant"}, {"tool_calls", calls}}})}};
}

JsonValue calling(const JsonValue& arguments) {
  return JsonValue::array({{{"function", {{"name", "f"}, {"arguments", arguments}}}}});
}

// Agents send the whole history again with every turn: a call that a model broke must not end it.
TEST(ApiRequest, BrokenToolCallsDoNotEndAConversation) {
  for (const JsonValue& broken : {JsonValue("{\"a\": "), JsonValue(" "), JsonValue("{\"a\": NaN}"),
                                  JsonValue("[1]"), JsonValue("42"), JsonValue(nullptr)}) {
    const ChatInput chat = read_chat_input(with_calls(calling(broken)));
    EXPECT_EQ(chat.messages[1]["tool_calls"][0]["function"]["arguments"], JsonValue::object())
        << broken;
  }
  const ChatInput chat = read_chat_input(with_calls(calling("{\"a\": 1}")));
  EXPECT_EQ(chat.messages[1]["tool_calls"][0]["function"]["arguments"], JsonValue({{"a", 1}}));
}

TEST(ApiRequest, AnEmptyListOfCallsIsNone) {
  const ChatInput chat = read_chat_input(with_calls(JsonValue::array()));
  EXPECT_FALSE(chat.messages[1].contains("tool_calls"));
}

TEST(ApiRequest, CallsAreChecked) {
  EXPECT_ANY_THROW(read_chat_input(with_calls("x")));
  EXPECT_ANY_THROW(read_chat_input(with_calls(JsonValue::array({{{"name", "f"}}}))));
}

}  // namespace
}  // namespace quern::serve
