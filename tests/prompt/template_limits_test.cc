// Templates of downloaded models are untrusted: none may hang, crash or exhaust the memory.
#include <gtest/gtest.h>

#include <chrono>

#include "prompt/chat_template.h"

namespace quern::prompt {
namespace {

std::string repeat(const std::string& text, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) out += text;
  return out;
}

// The message of the error that the template must cause, within a generous time.
std::string error_of(const std::string& source) {
  const auto start = std::chrono::steady_clock::now();
  std::string message = "no error";
  try {
    ChatTemplate chat(source, "bomb.jinja");
    chat.render(JsonValue::array(), {.messages = Messages::as_given});
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::invalid_input) << error.what();
    message = error.what();
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(30))
      << source.substr(0, 80);
  EXPECT_EQ(message.find("bomb.jinja: "), 0u) << message;
  return message;
}

void expect_error(const std::string& source, const std::string& part) {
  const std::string message = error_of(source);
  EXPECT_NE(message.find(part), std::string::npos) << message << "\n" << source.substr(0, 120);
}

TEST(TemplateLimits, DeepSources) {
  expect_error("{{ " + repeat("(", 100'000) + "1", "nested deeper than 200 levels");
  expect_error(repeat("{% if 1 %}", 10'000) + repeat("{% endif %}", 10'000), "recursion");
  expect_error("{{ " + repeat("not ", 100'000) + "1 }}", "bytes of code");
  expect_error(repeat("{{ " + repeat("a+", 5000) + "a }}", 20), "too many long tags");
  expect_error("{% if a %}" + repeat("{% elif a %}", 100'000) + "{% endif %}", "elif");
  // Within the limits, long chains work.
  EXPECT_EQ(ChatTemplate("{{ " + repeat("not ", 2000) + "1 }}", "x")
                .render(JsonValue::array(), {.messages = Messages::as_given}),
            "True");
}

TEST(TemplateLimits, Recursion) {
  expect_error("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion limit");
  expect_error("{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}", "recursion limit");
  expect_error("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", "recursion limit");
}

TEST(TemplateLimits, Loops) {
  expect_error("{% for i in range(100000000) %}x{% endfor %}", "range");
  expect_error("{% for i in range(10000) %}{% for j in range(10000) %}{% endfor %}{% endfor %}",
               "more than 1000000 steps");
  expect_error("{% for i in range(99999) %}" + std::string(100'000, 'x') + "{% endfor %}",
               "too much text");
}

TEST(TemplateLimits, LongTexts) {
  expect_error("{{ 'a' * 1000000000 }}", "too long a string");
  expect_error("{% set a = 'a' %}{{ a * 1000000000 }}", "more than 8388608 bytes");
  expect_error("{{ " + repeat("'a'*100000000~", 500) + "'b' }}", "too long a string");
  const std::string loop = "{% for i in range(100) %}{% set ns.x = ";
  expect_error("{% set ns = namespace(x='a') %}" + loop + "ns.x + ns.x %}{% endfor %}",
               "more than");
  expect_error("{% set ns = namespace(x='a') %}" + loop + "ns.x ~ ns.x %}{% endfor %}",
               "more than");
  expect_error("{% set x = 'a' * 100000 %}{{ x.replace('a', x) }}", "more than");
  expect_error("{{ '%999999999d' % 1 }}", "more than");
  expect_error("{{ 'a' | center(999999999) }}", "more than");
  expect_error("{{ range(99999) | join('a' * 100000) }}", "too much work");
  expect_error("{{ [1] | tojson(indent=999999999) }}", "more than");
}

TEST(TemplateLimits, ListsThatHoldThemselvesManyTimes) {
  const std::string nest =
      "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}"
      "{% set ns.y = [ns.y, ns.y] %}{% endfor %}";
  expect_error(nest + "{{ ns.x }}", "too much work");
  expect_error(nest + "{{ ns.x | tojson }}", "too much work");
  expect_error(nest + "{{ ns.x == ns.y }}", "too much work");
  expect_error(nest + "{{ [ns.x, ns.y] | sort }}", "too much work");
  expect_error(
      "{% set ns = namespace(x=[1]) %}{% for i in range(200) %}{% set ns.x = [ns.x] %}"
      "{% endfor %}{{ ns.x }}",
      "nested deeper");
}

}  // namespace
}  // namespace quern::prompt
