// The names closest to a misspelt one, for "did you mean".
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace quern {

// The number of edits (insert, delete, replace) that turn `a` into `b`.
int edit_distance(std::string_view a, std::string_view b);

// "; did you mean NAME?" with the closest of `known`. Empty if none is near: with edits for more
// than a third of its characters (of a short name: more than two edits, or half of it).
std::string did_you_mean(std::string_view word, const std::vector<std::string>& known);

// Up to three of `names` with a part similar to `part`. Names that differ only in numbers count as
// one.
std::vector<std::string> names_like(std::string_view part, const std::vector<std::string>& names);

}  // namespace quern
