// Python regular expressions as `re.match` applies them: anchored at the start only. Recipes use
// them to name modules (`re:.*mlp.experts.*`).
#pragma once

#include <memory>
#include <string>
#include <string_view>

struct QtPattern;

namespace quern::prompt {

// Thread-safe.
class Pattern {
 public:
  // Fails if the expression is malformed or uses an unsupported feature.
  explicit Pattern(const std::string& python_regex);

  // Fails if the match backtracks too often: a pattern like `(a+)+$` may need exponentially many
  // steps.
  bool match(std::string_view text) const;

  const std::string& text() const { return text_; }

 private:
  std::string text_;
  std::shared_ptr<const QtPattern> pattern_;
};

}  // namespace quern::prompt
