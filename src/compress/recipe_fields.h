// Fields of a modifier in a recipe.yaml, as methods read them.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"

namespace quern::compress {

// Fails on a field that is not known, naming the nearest one.
void check_fields(const Json& json, const std::vector<std::string>& known);

// A list of words, or one word.
std::vector<std::string> words(const Json& json, const std::string& key,
                               const std::vector<std::string>& otherwise);

}  // namespace quern::compress
