// How auto-round interprets the names in its rules.
#pragma once

#include <string>

namespace quern::compress {

// The substring of a name that an ignore entry matches. "layers.1" must not match layers.10, so an
// entry that ends in a digit gets a dot.
inline std::string ignored_part(const std::string& entry) {
  const bool digit = !entry.empty() && entry.back() >= '0' && entry.back() <= '9';
  return digit ? entry + "." : entry;
}

// A layer rule is an re.search. Returns the equivalent expression anchored at the start of the
// name.
inline std::string search_expression(const std::string& pattern) {
  return "(?s:.*?)(?:" + pattern + ")";
}

}  // namespace quern::compress
