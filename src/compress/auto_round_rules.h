// How auto-round reads the names in its rules.
#pragma once

#include <string>

namespace quern::compress {

// What an ignore entry looks for inside of names. "layers.1" must not hit layers.10, so an entry
// that ends in a digit gets a dot.
inline std::string ignored_part(const std::string& entry) {
  const bool digit = !entry.empty() && entry.back() >= '0' && entry.back() <= '9';
  return digit ? entry + "." : entry;
}

// A layer rule's re.search as an expression that matches from the start of the name.
inline std::string search_expression(const std::string& pattern) {
  return "(?s:.*?)(?:" + pattern + ")";
}

}  // namespace quern::compress
