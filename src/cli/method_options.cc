#include "cli/method_options.h"

#include <fmt/ranges.h>

#include "base/error.h"
#include "compress/compress.h"
#include "compress/method.h"
#include "compress/recipe_read.h"

namespace quern::cli {
namespace {

std::vector<std::string> format_names() {
  std::vector<std::string> names;
  for (const quant::Format* format : quant::formats()) names.emplace_back(format->name);
  return names;
}

void check_tuning_options(const MethodOptions& options) {
  const compress::RecipeOptions defaults, &given = options.recipe;
  if (options.method == defaults.method ||
      (given.iters == defaults.iters && given.batch_size == defaults.batch_size && !given.lr))
    return;
  fail(Exit::usage, "--iters, --lr and --batch-size belong to --method {}; remove them for {}",
       defaults.method, options.method);
}

compress::Recipe read_or_make(const MethodOptions& options) {
  if (!options.recipe_file.empty()) return compress::read_recipe(options.recipe_file);
  check_tuning_options(options);
  compress::RecipeOptions recipe = options.recipe;
  recipe.method = options.method;
  for (const std::string& rule : options.layer_rules)
    recipe.layers.push_back(compress::parse_layer_rule(rule));
  return compress::make_recipe(recipe);
}

}  // namespace

const quant::Format& format_of(const MethodOptions& options) {
  if (const quant::Format* format = quant::format_named(options.format)) return *format;
  return *quant::format_named(options.recipe_file.empty() ? "auto_gptq" : "compressed-tensors");
}

compress::Recipe recipe_of(const MethodOptions& options) {
  compress::Recipe recipe = read_or_make(options);
  recipe.drafts = options.calibrate_draft;
  if (recipe.drafts && !compress::needs_data(recipe))
    fail(Exit::usage, "--calibrate-draft: --method rtn does not calibrate; remove one of the two");
  return recipe;
}

void declare_method(CLI::App& verb, MethodOptions& options) {
  auto* recipe = verb.add_option("--recipe", options.recipe_file,
                                 "recipe.yaml in llm-compressor's schema, instead of the options "
                                 "of this group");
  auto only_without_recipe = [&](CLI::Option* option) {
    option->excludes(recipe)->group("Method");
  };
  recipe->group("Method");
  const std::vector<std::string> methods = compress::method_options();
  only_without_recipe(
      verb.add_option("--method", options.method, fmt::format("{}", fmt::join(methods, " or ")))
          ->check(CLI::IsMember(methods))
          ->capture_default_str());
  only_without_recipe(
      verb.add_option("--bits", options.recipe.bits, "Bits per weight")->capture_default_str());
  only_without_recipe(verb.add_option("--group-size", options.recipe.group_size,
                                      "Weights that share a scale; -1: a whole row")
                          ->capture_default_str());
  only_without_recipe(verb.add_flag("--sym,!--asym", options.recipe.symmetric,
                                    "Symmetric (default), or with zero points"));
  only_without_recipe(
      verb.add_option("--iters", options.recipe.iters, "Steps of AutoRound in each block")
          ->capture_default_str());
  only_without_recipe(
      verb.add_option("--lr", options.recipe.lr, "Learning rate (default: 1 / iters)"));
  only_without_recipe(verb.add_option("--batch-size", options.recipe.batch_size, "Samples per step")
                          ->capture_default_str());
  only_without_recipe(verb.add_option("--ignore", options.recipe.ignore,
                                      "Linears to keep: a name, a part of a name, or re:PATTERN; "
                                      "may be repeated")
                          ->allow_extra_args(false));
  only_without_recipe(
      verb.add_option(
              "--layer-config", options.layer_rules,
              "PATTERN=bits:16 or PATTERN=group_size:32,sym:false: an exception for some linears")
          ->allow_extra_args(false));
  verb.add_flag("--calibrate-draft", options.calibrate_draft,
                "Quantize and tune the draft layer too, instead of copying it")
      ->group("Method");
}

void declare_format(CLI::App& verb, MethodOptions& options) {
  verb.add_option("--format", options.format,
                  "auto_gptq (default), compressed-tensors (default with --recipe) or gptq")
      ->check(CLI::IsMember(format_names()))
      ->group("Output");
}

}  // namespace quern::cli
