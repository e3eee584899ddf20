// Whether one entry of `targets`, `ignore` or the layer rules matches a linear.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "compress/resolve.h"
#include "prompt/pattern.h"

namespace quern::compress {

// How a rule matched; names take precedence over classes.
enum class Hit { none, name, expression, class_name };

class Matcher {
 public:
  // llm-compressor's: full name, "re:" expression from the start, or class.
  static Matcher target(const std::string& text);
  // auto-round's ignore entry: the linear of that name if there is one, else every name that
  // contains it. quern adds "re:" expressions.
  static Matcher substring(std::string text, const std::unordered_set<std::string_view>& names);
  // auto-round's layer rule: the linear of that name if there is one, else a search.
  static Matcher layer(const std::string& text, const std::unordered_set<std::string_view>& names);

  Hit hit(const LinearInfo& linear) const;
  bool is_expression() const { return expression_.has_value(); }
  const std::string& text() const { return text_; }

  mutable bool matched = false;  // whether it has matched a linear so far

 private:
  explicit Matcher(std::string text) : text_(std::move(text)) {}

  std::string text_, part_;
  std::optional<prompt::Pattern> expression_;
  bool by_class_ = false;
};

struct Names {
  explicit Names(const std::vector<LinearInfo>& linears);

  std::unordered_set<std::string_view> set;
  std::vector<std::string> list;
};

// Whether the rule matches any linear. Asked only of rules that no linear reached, because an
// earlier rule decided.
bool matches_any(const Matcher& rule, const std::vector<LinearInfo>& linears);

// "the target "re:.*mpl" matches no linear; the nearest names: ...". `what` names the kind of rule.
std::string unmatched(const std::string& what, const Matcher& rule, const Names& names);

}  // namespace quern::compress
