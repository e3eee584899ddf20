// From a recipe, and what came of it, to recipe.yaml.
#pragma once

#include <string>

#include "compress/recipe.h"
#include "compress/resolve.h"

namespace quern::compress {

// recipe.yaml in llm-compressor's schema, which gives the same verdicts when it is read again.
std::string recipe_yaml(const Recipe& recipe, const Resolution& resolution);

}  // namespace quern::compress
