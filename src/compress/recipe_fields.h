// Readers for the fields of a modifier in a recipe.yaml.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"

namespace quern::compress {

// Fails on an unknown field and names the nearest known one.
void check_fields(const Json& json, const std::vector<std::string>& known);

// The value of `key`, a list of words or one word; `otherwise` when it is absent.
std::vector<std::string> words(const Json& json, const std::string& key,
                               const std::vector<std::string>& otherwise);

}  // namespace quern::compress
