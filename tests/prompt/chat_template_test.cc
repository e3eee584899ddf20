#include "prompt/chat_template.h"

#include <gtest/gtest.h>

#include <chrono>
#include <fstream>

#include "base/file.h"
#include "tests/prompt/text_golden.h"

namespace quern::prompt {
namespace {

// strftime_now's time in the goldens: Friday, 2026-01-02 03:04:05.
std::tm golden_time() {
  std::tm time{};
  time.tm_year = 126;
  time.tm_mon = 0;
  time.tm_mday = 2;
  time.tm_hour = 3;
  time.tm_min = 4;
  time.tm_sec = 5;
  time.tm_wday = 5;
  time.tm_yday = 1;
  return time;
}

struct Outcome {
  bool failed = false;
  bool raised = false;  // by raise_exception
  std::string text;     // the result, or the message
};

Outcome render(const ChatTemplate& chat, const JsonValue& messages, const ChatOptions& options) {
  try {
    return {false, false, chat.render(messages, options)};
  } catch (const TemplateError& error) {
    return {true, true, error.what()};
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::invalid_input) << error.what();
    return {true, false, error.what()};
  }
}

// A message of a template or of transformers must match; for Python's errors only the failure is
// compared.
void expect_same(const JsonValue& wanted, const Outcome& got, const std::string& where) {
  if (wanted.contains("text")) {
    EXPECT_FALSE(got.failed) << where << ": " << got.text;
    EXPECT_EQ(got.text, wanted["text"].get<std::string>()) << where;
    return;
  }
  EXPECT_TRUE(got.failed) << where << " rendered: " << got.text;
  std::string type = wanted["error_type"];
  EXPECT_EQ(got.raised, type == "TemplateError") << where << ": " << got.text;
  if (type == "TemplateError" || type == "ValueError") {
    EXPECT_EQ(got.text, wanted["error"].get<std::string>()) << where;
  }
}

TEST(ChatTemplate, RendersTheRealTemplatesAsTransformersDoes) {
  if (!std::filesystem::exists(assets() / "templates"))
    GTEST_SKIP() << "no real templates in " << assets();
  int cases = 0;
  for (const auto& [name, list] : golden()["templates"].items()) {
    std::string source = read_file(assets() / "templates" / (name + ".jinja"));
    ChatTemplate chat(source, name + ".jinja");
    for (const JsonValue& one : list) {
      ChatOptions options;
      options.add_generation_prompt = one["add_generation_prompt"];
      if (one["tools"].get<bool>()) options.tools = golden()["tools"];
      options.variables = one["variables"];
      const JsonValue& messages = golden()["conversations"][one["conversation"].get<std::string>()];
      std::string where = name + " " + one["conversation"].get<std::string>();
      expect_same(one, render(chat, messages, options), where);
      options.messages = Messages::as_given;
      const char* bare = "without_transformers_message_preparation";
      if (one.contains(bare)) expect_same(one[bare], render(chat, messages, options), where);
      ++cases;
    }
  }
  EXPECT_EQ(cases, 248);
}

TEST(ChatTemplate, SpeaksTheDialectOfTransformers) {
  ASSERT_EQ(golden()["template_engine"].size(), 34u);
  for (const JsonValue& one : golden()["template_engine"]) {
    ChatOptions options;
    options.variables = one["variables"];
    options.messages = Messages::as_given;
    options.now = golden_time();
    Outcome got;
    try {
      ChatTemplate chat(one["template"].get<std::string>(), "test");
      got = render(chat, JsonValue::array(), options);
    } catch (const Error& error) {
      got = {true, false, error.what()};
    }
    expect_same(one, got, one["name"]);
  }
}

}  // namespace
}  // namespace quern::prompt
