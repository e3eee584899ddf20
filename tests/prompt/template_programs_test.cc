#include <gtest/gtest.h>

#include <chrono>

#include "prompt/chat_template.h"
#include "tests/prompt/text_golden.h"

namespace quern::prompt {
namespace {

// What a program renders, or the message of its error.
std::pair<std::string, bool> outcome(const std::string& program, const JsonValue& variables) {
  try {
    const ChatTemplate chat(program, "test");
    const ChatOptions options{.variables = variables, .messages = Messages::as_given};
    return {chat.render(JsonValue::array(), options), true};
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::invalid_input) << error.what();
    return {error.what(), false};
  }
}

// tools/make_template_programs.py recorded Jinja2's results.
TEST(TemplatePrograms, RenderAsInJinja) {
  const JsonValue document =
      read_json(std::filesystem::path(QUERN_SOURCE_DIR) / "tests/data/text/programs.json");
  ASSERT_GT(document["programs"].size(), 100u);
  for (const JsonValue& program : document["programs"]) {
    const std::string source = program["template"];
    const auto [text, rendered] = outcome(source, document["variables"]);
    EXPECT_EQ(rendered, program.contains("text")) << source << "\n" << text;
    EXPECT_EQ(text, rendered ? program.value("text", "") : text) << source;
  }
}

TEST(TemplatePrograms, ErrorsNameWhatIsWrong) {
  const std::string macro = "{% macro m(a) %}{{ a }}{% endmacro %}";
  for (const auto& [program, wanted] : std::initializer_list<std::pair<std::string, std::string>>{
           {macro + "{{ m(1, 2) }}", "macro 'm' takes not more than 1 argument(s)"},
           {macro + "{{ m(b=2) }}", "macro 'm' takes no keyword argument 'b'"},
           {"{{ [1]|sort(1, 2, 3, 4) }}", "the filter sort: 4 arguments given"},
           {"{{ [1]|unique(by=1) }}", "the filter unique: unknown keyword argument 'by'"},
           {"{{ 1|default(1, 2, 3) }}", "the filter default: 3 arguments given"},
           {"{{ 'a'|upper(1) }}", "the filter upper: too many arguments"},
           {"{{ [1]|batch(0) }}", "linecount must be at least 1"},
           {"{{ [1, 'a']|sort }}", "'<' not supported between instances of 'str' and 'int'"},
           {"{{ dict(1, 2) }}", "dict expected at most 1 argument, got 2"},
           {"{{ [1]|truncate }}", "truncate"}}) {
    const auto [text, rendered] = outcome(program, JsonValue::object());
    EXPECT_FALSE(rendered) << program;
    EXPECT_NE(text.find(wanted), std::string::npos) << text;
  }
}

// Sorting is charged for its input, and equal keys of any kind terminate.
TEST(TemplatePrograms, SortingIsBounded) {
  TemplateLimits limits;
  limits.work_bytes = 1 << 20;
  const ChatTemplate chat("{{ range(100000)|unique|length }}", "test", limits);
  EXPECT_THROW(chat.render(JsonValue::array(), {.messages = Messages::as_given}), Error);
}

TEST(TemplatePrograms, UniqueTakesNoQuadraticTime) {
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(outcome("{{ range(100000)|unique|length }}", JsonValue::object()),
            std::pair(std::string("100000"), true));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20));
}

}  // namespace
}  // namespace quern::prompt
