// Python regular expressions as `re.match` applies them: anchored at the start only. Recipes name
// modules by them (`re:.*mlp.experts.*`).
#pragma once

#include <memory>
#include <string>
#include <string_view>

struct QtPattern;

namespace quern::prompt {

// May be used by several threads at once.
class Pattern {
 public:
  // Fails when the expression is malformed, or uses what the engine lacks.
  explicit Pattern(const std::string& python_regex);

  // Fails when the match takes too many steps back: a pattern like `(a+)+$` can take exponentially
  // many.
  bool match(std::string_view text) const;

  const std::string& text() const { return text_; }

 private:
  std::string text_;
  std::shared_ptr<const QtPattern> pattern_;
};

}  // namespace quern::prompt
