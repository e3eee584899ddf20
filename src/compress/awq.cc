#include "compress/awq.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "compress/method.h"
#include "compress/recipe_fields.h"

namespace quern::compress {
namespace {

std::vector<AwqMapping> read_mappings(const Json& mappings) {
  std::vector<AwqMapping> read;
  for (size_t i = 0; i < mappings.size(); ++i) {
    const Json entry = mappings.at(i);
    check_fields(entry, {"smooth_layer", "balance_layers", "activation_hook_target"});
    read.push_back({entry.get<std::string>("smooth_layer"), words(entry, "balance_layers", {})});
    if (read.back().balance_layers.empty()) fail("{}: balance_layers is missing", entry.path());
  }
  return read;
}

void read(const Json& json, Step& step) {
  AwqSettings settings;
  if (json.has("mappings")) settings.mappings = read_mappings(json.at("mappings"));
  if (json.has("duo_scaling")) {
    const JsonValue& duo = json.at("duo_scaling").value();
    if (!duo.is_boolean() && duo != "both")
      fail("{}: duo_scaling is {}; expected true, false or both", json.path(), duo.dump());
    settings.duo_scaling = duo == "both" ? DuoScaling::both
                           : duo == true ? DuoScaling::on
                                         : DuoScaling::off;
  }
  settings.grid = json.get<int>("n_grid", settings.grid);
  if (settings.grid < 1 || settings.grid > 10000)
    fail("{}: expected 1 <= n_grid <= 10000", json.path());
  step.settings = settings;
}

void write(const Step& step, JsonValue& fields) {
  const auto& settings = step.as<AwqSettings>();
  for (const AwqMapping& mapping : settings.mappings)
    fields["mappings"].push_back(
        {{"smooth_layer", mapping.smooth_layer}, {"balance_layers", mapping.balance_layers}});
  fields["duo_scaling"] = settings.duo_scaling == DuoScaling::on;
  if (settings.duo_scaling == DuoScaling::both) fields["duo_scaling"] = "both";
  fields["n_grid"] = settings.grid;
}

std::string text(const Step& step) {
  const auto& settings = step.as<AwqSettings>();
  std::string text = fmt::format("{} scales tried for each mapping", settings.grid);
  if (!settings.mappings.empty()) text += fmt::format(", {} mappings", settings.mappings.size());
  return text;
}

}  // namespace

const Method& awq_method() {
  static const Method kMethod = {.modifier = "AWQModifier",
                                 .schemes = Schemes::later,
                                 .needs_data = true,
                                 .fields = {"mappings", "offload_device", "duo_scaling", "n_grid"},
                                 .read = read,
                                 .write = write,
                                 .text = text};
  return kMethod;
}

}  // namespace quern::compress
