#include "compress/sparsegpt.h"

#include <fmt/format.h>

#include <charconv>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "compress/method.h"
#include "compress/recipe_fields.h"

namespace quern::compress {
namespace {

// "2:4": two of every four weights in a row become zero; "0:0": any.
void read_mask(const Json& json, SparseGptSettings& settings) {
  const auto text = json.get<std::string>("mask_structure", "0:0");
  const size_t colon = text.find(':');
  auto number = [&](std::string_view digits) {
    int64_t value = -1;
    const auto [end, error] = std::from_chars(digits.begin(), digits.end(), value);
    if (error != std::errc() || end != digits.end() || value < 0 || value > 1024)
      fail("{}: mask_structure is \"{}\"; expected \"2:4\", or \"0:0\" for none", json.path(),
           text);
    return value;
  };
  if (colon == std::string::npos) number("");
  settings.zeros = number(std::string_view(text).substr(0, colon));
  settings.of = number(std::string_view(text).substr(colon + 1));
  if (settings.zeros > settings.of || (settings.of > 0) != (settings.zeros > 0)) number("");
}

void read(const Json& json, Step& step) {
  SparseGptSettings settings{.hessian = read_hessian(json)};
  for (const char* key : {"sparsity_profile", "owl_m", "owl_lmbda"}) {
    if (json.has(key)) fail("{}: {} is not supported", json.path(), key);
  }
  if (json.get<bool>("preserve_sparsity_mask", false))
    fail("{}: preserve_sparsity_mask is not supported", json.path());
  if (json.at("sparsity").is_array())
    fail("{}: a sparsity for each layer is not supported; state one number", json.path());
  settings.share = json.get<double>("sparsity");
  if (!(settings.share > 0 && settings.share < 1))
    fail("{}: sparsity is {}; expected a number between 0 and 1", json.path(), settings.share);
  read_mask(json, settings);
  step.targets = words(json, "targets", {"Linear"});
  step.settings = settings;
}

void write(const Step& step, JsonValue& fields) {
  const auto& settings = step.as<SparseGptSettings>();
  fields["sparsity"] = settings.share;
  fields["mask_structure"] = fmt::format("{}:{}", settings.zeros, settings.of);
  fields["targets"] = step.targets;
  fields["ignore"] = step.ignore;
  write_hessian(settings.hessian, fields);
}

std::string text(const Step& step) {
  const auto& settings = step.as<SparseGptSettings>();
  std::string text = fmt::format("{:g}% of the weights become zero", 100 * settings.share);
  if (settings.of > 0) text += fmt::format(", {} of every {}", settings.zeros, settings.of);
  return text;
}

}  // namespace

const Method& sparse_gpt_method() {
  static const Method kMethod = {
      .modifier = "SparseGPTModifier",
      .schemes = Schemes::none,
      .needs_data = true,
      .fields = {"sparsity", "sparsity_profile", "mask_structure", "owl_m", "owl_lmbda", "targets",
                 "ignore", "block_size", "dampening_frac", "preserve_sparsity_mask"},
      .read = read,
      .write = write,
      .text = text};
  return kMethod;
}

}  // namespace quern::compress
