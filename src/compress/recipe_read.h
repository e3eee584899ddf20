// Reads a recipe from recipe.yaml in llm-compressor's schema.
#pragma once

#include <filesystem>
#include <string>

#include "base/json.h"
#include "compress/recipe.h"

namespace quern::compress {

// Stages and groups of modifiers are flattened in order. Fails, naming the place in the file, on an
// unknown modifier or field (with the nearest known name), on one that quern does not support, on
// steps in an impossible order, and when there is no modifier. `origin` names the document in
// messages.
Recipe parse_recipe(const JsonValue& document, const std::string& origin);
Recipe read_recipe(const std::filesystem::path& file);

}  // namespace quern::compress
