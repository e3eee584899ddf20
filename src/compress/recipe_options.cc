#include "compress/recipe_options.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>

#include "base/error.h"
#include "compress/method.h"

namespace quern::compress {

LayerRule parse_layer_rule(std::string_view text) {
  auto misread = [&] {
    fail(Exit::usage,
         "layer rule \"{}\": expected PATTERN=bits:16 or PATTERN=group_size:32,sym:false", text);
  };
  size_t equal = text.rfind('=');
  if (equal == 0 || equal == std::string_view::npos) misread();
  LayerRule rule{.pattern = std::string(text.substr(0, equal))};
  std::string_view rest = text.substr(equal + 1);
  while (!rest.empty()) {
    std::string_view setting = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(rest.size(), setting.size() + 1));
    size_t colon = setting.find(':');
    if (colon == std::string_view::npos) misread();
    std::string_view key = setting.substr(0, colon), value = setting.substr(colon + 1);
    int64_t number = 0;
    auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
    bool numeric = error == std::errc() && end == value.data() + value.size();
    if (key == "bits" && numeric && (number == 4 || number == 16)) {
      rule.keep = number == 16;
    } else if (key == "group_size" && numeric && (number > 0 || number == -1)) {
      rule.group_size = number;
    } else if (key == "sym" && (value == "true" || value == "false")) {
      rule.symmetric = value == "true";
    } else {
      misread();
    }
  }
  return rule;
}

Recipe make_recipe(const RecipeOptions& options) {
  const quant::Element* element = quant::element_of("int", options.bits);
  if (!element)
    fail(Exit::usage, "--bits {}: quern supports the elements {}", options.bits,
         quant::element_names());
  if (options.group_size <= 0 && options.group_size != -1) {
    fail(Exit::usage, "--group-size {}: expected 32, 64, 128, or -1 for one scale per row",
         options.group_size);
  }
  const Method* method = method_of_option(options.method);
  if (!method)
    fail(Exit::usage, "--method {}: expected one of {}", options.method,
         fmt::join(method_options(), ", "));
  SchemeGroup group{
      .name = "group_0",
      .targets = {"Linear"},
      .scheme = {
          .element = element, .group_size = options.group_size, .symmetric = options.symmetric}};
  Step step{.modifier = std::string(method->modifier),
            .method = method,
            .groups = {group},
            .ignore = options.ignore,
            .layers = options.layers};
  method->from_options(options, step);
  return {.style = RuleStyle::auto_round, .steps = {step}};
}

}  // namespace quern::compress
