#include "compress/recipe.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/nearest.h"
#include "base/yaml.h"

namespace quern::compress {
namespace {

using Names = std::vector<std::string>;

const Names kSupported = {"AutoRoundModifier", "QuantizationModifier"};
const Names kNotSupportedYet = {"AWQModifier",
                                "ConstantPruningModifier",
                                "GPTQModifier",
                                "LogarithmicEqualizationModifier",
                                "MagnitudePruningModifier",
                                "QuIPModifier",
                                "REAPPruningModifier",
                                "SmoothQuantModifier",
                                "SparseGPTModifier",
                                "SpinQuantModifier",
                                "WandaPruningModifier"};

// Fields of every modifier, of those that quantize, and of AutoRound's. The first kind, and those
// that steer how llm-compressor runs, change nothing here.
const Names kCommonFields = {
    "requires_calibration_data", "index", "group", "start", "end", "update", "sequential_targets"};
const Names kQuantizationFields = {"config_groups",   "targets",
                                   "ignore",          "scheme",
                                   "kv_cache_scheme", "weight_observer",
                                   "input_observer",  "output_observer",
                                   "observer",        "bypass_divisibility_checks"};
const Names kAutoRoundFields = {"iters", "enable_torch_compile", "batch_size",
                                "lr",    "device_ids",           "disable_opt_rtn"};
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

void check_fields(const Json& json, const Names& known) {
  if (!json.is_object()) fail("{}: expected fields with values", json.path());
  for (const std::string& key : json.keys()) {
    if (contains(known, key)) continue;
    fail("{}: there is no field \"{}\"; did you mean \"{}\"? Known: {}", json.path(), key,
         nearest(key, known), fmt::join(known, ", "));
  }
}

// A list of words, or one word.
Names words(const Json& json, const std::string& key, const Names& otherwise) {
  if (!json.has(key)) return otherwise;
  Json value = json.at(key);
  return value.is_string() ? Names{value.as<std::string>()} : value.as<Names>();
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
      "{}: the scheme {} is not supported; quern quantizes weights to 4-bit integers: W4A16, "
      "W4A16_ASYM, or config_groups with num_bits 4",
      path, name);
}

quant::Observer observer_of(const Json& json, const std::string& key) {
  auto name = json.get<std::string>(key);
  if (auto observer = quant::observer_named(name)) return *observer;
  fail(
      "{}: there is no observer \"{}\" here; known: memoryless_minmax, minmax, static_minmax, mse, "
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
  int bits = weights.get<int>("num_bits", 8);
  require(bits == 4, fmt::format("num_bits is {}; only 4 is supported", bits));
  require(weights.get<std::string>("type", "int") == "int", "only the type int is supported");
  require(!weights.has("dynamic") || weights.at("dynamic").value() == false,
          "weights cannot be quantized dynamically");
  require(!weights.has("actorder"), "actorder belongs to GPTQ, which is not supported yet");
  require(!weights.has("block_structure"), "the strategy block is not supported");
  int64_t size = weights.get<int64_t>("group_size", 0);
  auto strategy = weights.get<std::string>("strategy", size > 0     ? "group"
                                                       : size == -1 ? "channel"
                                                                    : "tensor");
  require(strategy == "group" || strategy == "channel",
          fmt::format("the strategy {} is not supported; say group with a group_size, or channel",
                      strategy));
  require((strategy == "group") == (size > 0),
          fmt::format("group_size {} does not go with the strategy {}", size, strategy));
  group.scheme = {.group_size = strategy == "group" ? size : -1,
                  .symmetric = weights.get<bool>("symmetric", true)};
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

// `scheme`: a preset for the targets, or presets with targets of their own.
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

Step read_modifier(const Json& json, const std::string& modifier) {
  Step step{.modifier = modifier, .groups = {}, .ignore = words(json, "ignore", {})};
  bool tunes = modifier == "AutoRoundModifier";
  check_fields(json, tunes ? joined({kQuantizationFields, kAutoRoundFields, kCommonFields})
                           : joined({kQuantizationFields, kCommonFields}));
  if (json.has("kv_cache_scheme")) {
    fail("{}: kv_cache_scheme is not supported; quern quantizes weights", json.path());
  }
  if (json.has("scheme") && json.has("config_groups")) {
    fail("{}: scheme and config_groups exclude each other", json.path());
  }
  if (json.has("config_groups")) {
    step.groups = read_groups(json.at("config_groups"));
  } else if (json.has("scheme")) {
    step.groups = read_presets(json, words(json, "targets", {"Linear"}));
  } else if (!tunes || json.has("targets") || json.has("ignore")) {
    fail("{}: neither scheme nor config_groups says how to quantize, for example scheme: W4A16",
         json.path());
  }
  read_observers(json, step.groups);
  if (!tunes) return step;
  step.method = Method::auto_round;
  step.iters = json.get<int>("iters", step.iters);
  step.batch_size = json.get<int>("batch_size", step.batch_size);
  if (json.has("lr")) step.lr = json.get<double>("lr");
  if (step.iters < 0 || step.batch_size < 1 || (step.lr && !(*step.lr > 0))) {
    fail("{}: expected iters >= 0, batch_size >= 1 and lr > 0", json.path());
  }
  if (step.iters == 0) step.method = Method::round_to_nearest;
  return step;
}

void check_modifier(const std::string& name, const std::string& path) {
  if (contains(kSupported, name)) return;
  if (contains(kNotSupportedYet, name)) {
    fail("{}: {} is not supported yet by this version; it knows {}", path, name,
         fmt::join(kSupported, ", "));
  }
  fail("{}: there is no modifier \"{}\"; did you mean {}?", path, name,
       nearest(name, joined({kSupported, kNotSupportedYet})));
}

void check_chain(const Recipe& recipe, const std::string& origin) {
  if (recipe.steps.empty()) {
    fail(
        "{}: no modifier in it. A recipe looks like\n"
        "default_stage:\n  default_modifiers:\n    AutoRoundModifier:\n      scheme: W4A16\n"
        "      ignore: [lm_head]",
        origin);
  }
  if (recipe.steps.front().groups.empty()) {
    fail("{}: {} has neither scheme nor config_groups, and no modifier before it has", origin,
         recipe.steps.front().modifier);
  }
}

}  // namespace

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

Recipe parse_recipe(const JsonValue& document, const std::string& origin) {
  Recipe recipe;
  Json root(document, origin);
  if (!root.is_object()) fail("{}: expected stages, such as default_stage", origin);
  for (const std::string& stage : root.keys()) {
    // llm-compressor passes over other keys as well; a file of nothing else is an error below.
    if (!stage.ends_with("_stage") || !root.at(stage).is_object()) continue;
    Json modifiers = root.at(stage);
    for (const std::string& group : modifiers.keys()) {
      if (!group.ends_with("_modifiers") || !modifiers.at(group).is_object()) continue;
      Json list = modifiers.at(group);
      for (const std::string& name : list.keys()) {
        check_modifier(name, list.path());
        recipe.steps.push_back(read_modifier(list.at(name), name));
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

Recipe make_recipe(const RecipeOptions& options) {
  if (options.bits != 4) {
    fail(Exit::usage, "--bits {}: only 4 is supported", options.bits);
  }
  if (options.group_size <= 0 && options.group_size != -1) {
    fail(Exit::usage, "--group-size {}: expected 32, 64, 128, or -1 for one scale a row",
         options.group_size);
  }
  if (options.iters < 0 || options.batch_size < 1 || (options.lr && !(*options.lr > 0))) {
    fail(Exit::usage, "expected --iters >= 0, --batch-size >= 1 and --lr > 0");
  }
  bool tunes = options.method == Method::auto_round && options.iters > 0;
  SchemeGroup group{.name = "group_0",
                    .targets = {"Linear"},
                    .scheme = {.group_size = options.group_size, .symmetric = options.symmetric}};
  Step step{.modifier = tunes ? "AutoRoundModifier" : "QuantizationModifier",
            .method = tunes ? Method::auto_round : Method::round_to_nearest,
            .groups = {group},
            .ignore = options.ignore,
            .layers = options.layers,
            .iters = tunes ? options.iters : 0,
            .lr = options.lr,
            .batch_size = options.batch_size};
  return {.style = RuleStyle::auto_round, .steps = {step}};
}

}  // namespace quern::compress
