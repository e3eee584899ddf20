// The options of `compress` and `plan` that decide how each linear is quantized.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "compress/recipe_options.h"
#include "quant/format.h"

namespace quern::cli {

struct MethodOptions {
  std::string recipe_file, method = "auto-round";
  compress::RecipeOptions recipe;
  std::vector<std::string> layer_rules;
  bool calibrate_draft = false;
  std::string format;
};

void declare_method(CLI::App& verb, MethodOptions& options);
void declare_format(CLI::App& verb, MethodOptions& options);

compress::Recipe recipe_of(const MethodOptions& options);
// The default with a recipe.yaml is llm-compressor's format.
const quant::Format& format_of(const MethodOptions& options);

}  // namespace quern::cli
