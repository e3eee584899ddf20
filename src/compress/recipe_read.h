// From recipe.yaml, in llm-compressor's schema, to a recipe.
#pragma once

#include <filesystem>
#include <string>

#include "base/json.h"
#include "compress/recipe.h"

namespace quern::compress {

// Stages and groups of modifiers are flattened in order. Fails, with the place in the file, on a
// modifier or field that does not exist (naming the nearest), on one that quern does not support,
// on steps in an order that makes no sense, and when there is no modifier at all. `origin` names
// the document in messages.
Recipe parse_recipe(const JsonValue& document, const std::string& origin);
Recipe read_recipe(const std::filesystem::path& file);

}  // namespace quern::compress
