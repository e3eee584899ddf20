// Writes recipe.yaml from a recipe and its resolution.
#pragma once

#include <string>

#include "compress/recipe.h"
#include "compress/resolve.h"

namespace quern::compress {

// recipe.yaml in llm-compressor's schema, that gives the same verdicts when read again.
std::string recipe_yaml(const Recipe& recipe, const Resolution& resolution);

}  // namespace quern::compress
