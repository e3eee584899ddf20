// Makes a recipe from the command line's options.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "compress/recipe.h"

namespace quern::compress {

// "PATTERN=bits:16" or "PATTERN=group_size:32,sym:false".
LayerRule parse_layer_rule(std::string_view text);

// The options that replace a recipe file.
struct RecipeOptions {
  std::string method = "auto-round";  // Method::option
  int bits = 4;
  int64_t group_size = 128;  // -1: one scale per row
  bool symmetric = true;
  int iters = 200;  // 0: round-to-nearest
  std::optional<double> lr = {};
  int batch_size = 8;
  std::vector<std::string> ignore = {};
  std::vector<LayerRule> layers = {};
};
Recipe make_recipe(const RecipeOptions& options);

}  // namespace quern::compress
