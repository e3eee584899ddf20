#include "compress/recipe_read.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/nearest.h"
#include "base/yaml.h"
#include "compress/act_order.h"
#include "compress/method.h"
#include "compress/recipe_fields.h"

namespace quern::compress {
namespace {

using Names = std::vector<std::string>;

// Fields of every modifier, and fields of modifiers that quantize. The common fields, and those
// that control how llm-compressor runs, have no effect here.
const Names kCommonFields = {"requires_calibration_data",
                             "index",
                             "group",
                             "start",
                             "end",
                             "update",
                             "sequential_targets",
                             "sequential_update",
                             "offload_hessians"};
const Names kQuantizationFields = {"config_groups",   "targets",
                                   "ignore",          "scheme",
                                   "kv_cache_scheme", "weight_observer",
                                   "input_observer",  "output_observer",
                                   "observer",        "bypass_divisibility_checks"};
const Names kSchemeFields = {"targets", "weights", "input_activations", "output_activations",
                             "format"};
const Names kWeightFields = {"num_bits", "type",     "symmetric",       "group_size",
                             "strategy", "dynamic",  "actorder",        "scale_dtype",
                             "zp_dtype", "observer", "block_structure", "observer_kwargs"};
const Names kSearchFields = {"maxshrink", "patience",          "grid", "norm", "chunk_size",
                             "expand",    "averaging_constant"};

bool contains(const Names& names, const std::string& name) {
  return std::ranges::find(names, name) != names.end();
}

Names joined(std::initializer_list<Names> lists) {
  Names all;
  for (const Names& list : lists) all.insert(all.end(), list.begin(), list.end());
  return all;
}

std::string upper(std::string text) {
  std::ranges::transform(text, text.begin(), [](unsigned char c) { return std::toupper(c); });
  return text;
}

quant::Scheme preset(const std::string& name, const std::string& path) {
  std::string known = upper(name);
  if (known == "W4A16") return {};
  if (known == "W4A16_ASYM") return {.symmetric = false};
  fail(
      "{}: the scheme {} is not supported; quern quantizes weights to 4-bit integers: use W4A16, "
      "W4A16_ASYM, or config_groups with num_bits 4",
      path, name);
}

quant::Observer observer_of(const Json& json, const std::string& key) {
  auto name = json.get<std::string>(key);
  if (auto observer = quant::observer_named(name)) return *observer;
  fail(
      "{}: the observer \"{}\" is unknown; known: memoryless_minmax, minmax, static_minmax, mse, "
      "memoryless_mse",
      json.path(), name);
}

quant::ShrinkSearch shrink_of(const Json& json) {
  check_fields(json, kSearchFields);
  quant::ShrinkSearch search;
  search.maxshrink = json.get<double>("maxshrink", search.maxshrink);
  search.grid = json.get<double>("grid", search.grid);
  search.norm = json.get<double>("norm", search.norm);
  search.patience = json.get<int>("patience", search.patience);
  bool sound = search.maxshrink > 0 && search.maxshrink < 1 && search.grid >= 1 &&
               search.grid <= 10000 && search.norm > 0 && search.patience > 0;
  if (!sound || json.get<double>("expand", 1.0) != 1.0) {
    fail("{}: expected 0 < maxshrink < 1, 1 <= grid <= 10000, norm > 0, patience > 0, expand 1",
         json.path());
  }
  return search;
}

void read_weights(const Json& weights, SchemeGroup& group) {
  check_fields(weights, kWeightFields);
  auto require = [&](bool condition, std::string_view what) {
    if (!condition) fail("{}: {}", weights.path(), what);
  };
  const int bits = weights.get<int>("num_bits", 8);
  const auto type = weights.get<std::string>("type", "int");
  const quant::Element* element = quant::element_of(type, bits);
  require(element, fmt::format("num_bits {} of the type {} is not supported; known: {}", bits, type,
                               quant::element_names()));
  require(!weights.has("dynamic") || weights.at("dynamic").value() == false,
          "weights cannot be quantized dynamically");
  require(!weights.has("block_structure"), "the strategy block is not supported");
  int64_t size = weights.get<int64_t>("group_size", 0);
  auto strategy = weights.get<std::string>("strategy", size > 0     ? "group"
                                                       : size == -1 ? "channel"
                                                                    : "tensor");
  require(strategy == "group" || strategy == "channel",
          fmt::format("the strategy {} is not supported; use group with a group_size, or channel",
                      strategy));
  require(
      (strategy == "group") == (size > 0),
      fmt::format("group_size {} contradicts the strategy {}; change one of them", size, strategy));
  group.scheme = {.element = element,
                  .group_size = strategy == "group" ? size : -1,
                  .symmetric = weights.get<bool>("symmetric", true)};
  group.act_order = act_order_of(weights);
  if (weights.has("observer")) group.observer = observer_of(weights, "observer");
  if (weights.has("observer_kwargs")) group.shrink = shrink_of(weights.at("observer_kwargs"));
}

std::vector<SchemeGroup> read_groups(const Json& json) {
  std::vector<SchemeGroup> groups;
  for (const std::string& name : json.keys()) {
    Json entry = json.at(name);
    check_fields(entry, kSchemeFields);
    for (const char* key : {"input_activations", "output_activations"}) {
      if (entry.has(key))
        fail("{}: {} are not supported; quern quantizes weights", entry.path(), key);
    }
    SchemeGroup group{.name = name, .targets = words(entry, "targets", {}), .scheme = {}};
    if (group.targets.empty()) fail("{}: targets is missing", entry.path());
    read_weights(entry.at("weights"), group);
    groups.push_back(group);
  }
  return groups;
}

// Reads `scheme`: a preset for `targets`, or presets with their own targets.
std::vector<SchemeGroup> read_presets(const Json& json, const Names& targets) {
  Json scheme = json.at("scheme");
  if (scheme.is_string()) {
    quant::Scheme read = preset(scheme.as<std::string>(), scheme.path());
    return {{.name = "group_0", .targets = targets, .scheme = read}};
  }
  std::vector<SchemeGroup> groups;
  for (const std::string& name : scheme.keys()) {
    groups.push_back({.name = fmt::format("group_{}", groups.size()),
                      .targets = words(scheme, name, {}),
                      .scheme = preset(name, scheme.path())});
  }
  return groups;
}

void read_observers(const Json& json, std::vector<SchemeGroup>& groups) {
  for (const char* key : {"input_observer", "output_observer"}) {
    if (json.has(key)) fail("{}: {} is for activations, which are not quantized", json.path(), key);
  }
  bool both = json.has("observer") && json.has("weight_observer");
  if (both) fail("{}: observer and weight_observer exclude each other", json.path());
  for (SchemeGroup& group : groups) {
    if (json.has("weight_observer")) group.observer = observer_of(json, "weight_observer");
    if (json.has("observer")) group.observer = observer_of(json.at("observer"), "weights");
  }
}

// Only FP8 with one scale per tensor is accepted: servers can do it without scales in the
// checkpoint.
bool read_kv_cache(const Json& json) {
  if (!json.has("kv_cache_scheme")) return false;
  const Json scheme = json.at("kv_cache_scheme");
  check_fields(scheme, kWeightFields);
  const bool fp8 = scheme.get<int>("num_bits", 8) == 8 &&
                   scheme.get<std::string>("type", "int") == "float" &&
                   scheme.get<std::string>("strategy", "tensor") == "tensor" &&
                   scheme.get<bool>("symmetric", true) && !scheme.get<bool>("dynamic", false);
  if (!fp8) {
    fail(
        "{}: only num_bits: 8, type: float, strategy: tensor, symmetric: true, dynamic: false is "
        "supported",
        scheme.path());
  }
  return true;
}

// Reads the fields that all quantizing modifiers share.
void read_quantization(const Json& json, Step& step) {
  if (json.has("scheme") && json.has("config_groups")) {
    fail("{}: scheme and config_groups exclude each other", json.path());
  }
  step.fp8_kv_cache = read_kv_cache(json);
  if (json.has("config_groups")) {
    step.groups = read_groups(json.at("config_groups"));
  } else if (json.has("scheme")) {
    step.groups = read_presets(json, words(json, "targets", {"Linear"}));
  } else if (json.has("targets") || json.has("ignore") ||
             (step.method->schemes == Schemes::own && !step.fp8_kv_cache)) {
    fail(
        "{}: neither scheme nor config_groups states how to quantize; add for example scheme: "
        "W4A16",
        json.path());
  }
  read_observers(json, step.groups);
  for (const SchemeGroup& group : step.groups) {
    if (group.act_order != ActOrder::none && !step.method->act_order)
      fail("{}: actorder is supported for GPTQModifier only; remove it", json.path());
  }
}

// Modifiers of llm-compressor that quern does not have.
const Names kForeign = {"ConstantPruningModifier",  "LogarithmicEqualizationModifier",
                        "MagnitudePruningModifier", "QuIPModifier",
                        "REAPPruningModifier",      "SpinQuantModifier",
                        "WandaPruningModifier"};

const Method& method_named(const std::string& name, const std::string& path) {
  if (const Method* method = method_of_modifier(name)) return *method;
  Names known;
  for (const Method* method : methods()) known.emplace_back(method->modifier);
  if (contains(kForeign, name)) {
    fail("{}: {} is not supported; known: {}", path, name, fmt::join(known, ", "));
  }
  fail("{}: there is no modifier \"{}\"{}; known: {}", path, name,
       did_you_mean(name, joined({known, kForeign})), fmt::join(known, ", "));
}

Step read_step(const Json& json, const Method& method) {
  const bool quantizes = states_schemes(method.schemes);
  check_fields(json,
               joined({quantizes ? kQuantizationFields : Names{}, method.fields, kCommonFields}));
  Step step{.modifier = std::string(method.modifier),
            .method = &method,
            .ignore = words(json, "ignore", {})};
  if (quantizes) read_quantization(json, step);
  method.read(json, step);
  return step;
}

// A step without schemes uses those of an earlier step, or prepares the weights for a later step.
void check_chain(const Recipe& recipe, const std::string& origin) {
  if (recipe.steps.empty()) {
    fail(
        "{}: it contains no modifier. A recipe looks like\n"
        "default_stage:\n  default_modifiers:\n    AutoRoundModifier:\n      scheme: W4A16\n"
        "      ignore: [lm_head]",
        origin);
  }
  const Step* schemes = nullptr;
  const Step* waits = nullptr;
  for (const Step& step : recipe.steps) {
    if (step.method->schemes == Schemes::none && schemes)
      fail("{}: {} must come before {}, which quantizes", origin, step.modifier, schemes->modifier);
    if (step.groups.empty() && rounds(*step.method) && !step.fp8_kv_cache && !schemes)
      fail("{}: {} has neither scheme nor config_groups, and no modifier before it has one", origin,
           step.modifier);
    if (step.groups.empty() && !rounds(*step.method)) waits = &step;
    if (!step.groups.empty()) schemes = &step, waits = nullptr;
  }
  if (waits || !schemes) {
    const Step& step = waits ? *waits : recipe.steps.back();
    fail("{}: {} quantizes nothing; a QuantizationModifier or GPTQModifier must follow it", origin,
         step.modifier);
  }
}

}  // namespace

Recipe parse_recipe(const JsonValue& document, const std::string& origin) {
  Recipe recipe;
  Json root(document, origin);
  if (!root.is_object()) fail("{}: expected stages, such as default_stage", origin);
  for (const std::string& stage : root.keys()) {
    // llm-compressor ignores other keys too; a file with only such keys is an error below.
    if (!stage.ends_with("_stage") || !root.at(stage).is_object()) continue;
    Json modifiers = root.at(stage);
    for (const std::string& group : modifiers.keys()) {
      if (!group.ends_with("_modifiers") || !modifiers.at(group).is_object()) continue;
      Json list = modifiers.at(group);
      for (const std::string& name : list.keys()) {
        recipe.steps.push_back(read_step(list.at(name), method_named(name, list.path())));
      }
    }
  }
  check_chain(recipe, origin);
  return recipe;
}

Recipe read_recipe(const std::filesystem::path& file) {
  JsonValue document = file.extension() == ".json" ? read_json(file) : read_yaml(file);
  return parse_recipe(document, file.filename().string());
}

}  // namespace quern::compress
