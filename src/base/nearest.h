// The names that are closest to a misspelt one, for "did you mean".
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace quern {

// Edits (insert, delete, replace) that turn `a` into `b`.
int edit_distance(std::string_view a, std::string_view b);

// The closest of `known`.
std::string nearest(std::string_view word, const std::vector<std::string>& known);

// Up to three of `names` that contain something like `part` anywhere. Names that differ in numbers
// only count as one.
std::vector<std::string> names_like(std::string_view part, const std::vector<std::string>& names);

}  // namespace quern
