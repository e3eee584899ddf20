#include "compress/matcher.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "base/error.h"
#include "base/nearest.h"
#include "compress/auto_round_rules.h"

namespace quern::compress {
namespace {

// The literal characters of a rule, to compare it with names.
std::string literal_of(std::string text) {
  if (text.starts_with("re:")) text = text.substr(3);
  std::erase_if(text, [](char c) {
    return std::string_view("\\^$*+?()[]{}|").find(c) != std::string_view::npos;
  });
  return text;
}

}  // namespace

Matcher Matcher::target(const std::string& text) {
  Matcher matcher(text);
  if (text.starts_with("re:")) matcher.expression_.emplace(text.substr(3));
  matcher.by_class_ = true;
  return matcher;
}

Matcher Matcher::substring(std::string text, const std::unordered_set<std::string_view>& names) {
  if (text.starts_with("re:")) return target(text);
  std::erase(text, ' ');
  Matcher matcher(text);
  if (!names.contains(text)) matcher.part_ = ignored_part(text);
  return matcher;
}

Matcher Matcher::layer(const std::string& text, const std::unordered_set<std::string_view>& names) {
  Matcher matcher(text);
  if (!names.contains(text)) matcher.expression_.emplace(search_expression(text));
  return matcher;
}

Hit Matcher::hit(const LinearInfo& linear) const {
  if (expression_) return expression_->match(linear.name) ? Hit::expression : Hit::none;
  if (linear.name == text_) return Hit::name;
  if (!part_.empty() && linear.name.find(part_) != std::string::npos) return Hit::expression;
  bool its_class = by_class_ && (linear.class_name == text_ || text_ == "Module");
  return its_class ? Hit::class_name : Hit::none;
}

Names::Names(const std::vector<LinearInfo>& linears) {
  for (const LinearInfo& linear : linears) {
    set.insert(linear.name);
    list.push_back(linear.name);
  }
}

bool matches_any(const Matcher& rule, const std::vector<LinearInfo>& linears) {
  return rule.matched || std::ranges::any_of(linears, [&](const LinearInfo& linear) {
           return rule.hit(linear) != Hit::none;
         });
}

std::string unmatched(const std::string& what, const Matcher& rule, const Names& names) {
  return fmt::format("{} \"{}\" matches no linear; the nearest names: {}", what, rule.text(),
                     fmt::join(names_like(literal_of(rule.text()), names.list), ", "));
}

}  // namespace quern::compress
