// compressed-tensors, "pack-quantized": <module>.weight_packed int32 [out, words(in)], the first
// code of a word in its lowest bits; .weight_scale [out, groups] in the weight's own dtype;
// .weight_shape int64 [2]; asymmetric: .weight_zero_point int32 [words(out), groups], packed along
// the rows.
//
// In quantization_config the most common scheme has the target "Linear", other schemes list their
// modules. `ignore` names every kept linear; "re:^mtp.*" covers a draft layer.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_map>
#include <unordered_set>

#include "base/error.h"
#include "quant/config_parts.h"
#include "quant/module_tensors.h"
#include "quant/words.h"

namespace quern::quant {
namespace {

constexpr std::string_view kMethods[] = {"compressed-tensors"};
constexpr std::string_view kParts[] = {"weight_packed", "weight_scale", "weight_shape",
                                       "weight_zero_point", "weight_g_idx"};
// A release of compressed-tensors whose files have exactly these keys; readers ignore it.
constexpr const char* kVersion = "0.13.0";

// ---- tensors

DType own_dtype(DType weight_dtype) { return weight_dtype; }

std::string refusal(const Scheme& scheme, int64_t, int64_t) {
  if (32 % scheme.element->bits == 0) return "";
  return fmt::format("words of 32 bits do not hold a whole number of {} codes",
                     scheme.element->name);
}

std::vector<DiskTensor> planned(const std::string& module, int64_t rows, int64_t columns,
                                const Scheme& scheme) {
  const Element& element = *scheme.element;
  const int64_t groups = scheme.groups(columns);
  std::vector<DiskTensor> tensors = {
      {module + ".weight_packed", at::kInt, {rows, words(element, columns)}},
      {module + ".weight_scale", scheme.scale_dtype, {rows, groups}},
      {module + ".weight_shape", at::kLong, {2}}};
  if (!scheme.symmetric) {
    tensors.push_back({module + ".weight_zero_point", at::kInt, {words(element, rows), groups}});
  }
  return tensors;
}

std::vector<Tensor> to_disk(const QuantWeight& weight) {
  const Tensor shape = at::tensor({weight.rows(), weight.columns}, at::kLong);
  std::vector<Tensor> tensors = {words_of_codes(weight.codes), weight.scales.contiguous(), shape};
  if (weight.zeros.defined()) tensors.push_back(words_down(*weight.scheme.element, weight.zeros));
  return tensors;
}

QuantWeight from_disk(const std::string& module, const Scheme& scheme, const Lookup& lookup) {
  const ModuleTensors tensors(module, lookup);
  const Element& element = *scheme.element;
  Tensor packed = tensors.take("weight_packed", at::kInt, {-1, -1});
  Tensor shape = tensors.find("weight_shape");
  if (!shape.defined()) fail("{} is missing", tensors.name("weight_shape"));
  check_shape(shape, {2}, tensors.name("weight_shape"));
  shape = shape.to(at::kLong);
  int64_t rows = shape[0].item<int64_t>(), columns = shape[1].item<int64_t>();
  if (columns <= 0 || packed.size(0) != rows || packed.size(1) != words(element, columns)) {
    fail("{} states [{}, {}], which contradicts {} of shape {}", tensors.name("weight_shape"), rows,
         columns, tensors.name("weight_packed"), shape_text(packed));
  }
  int64_t groups = tensors.groups(scheme, columns);
  QuantWeight weight{.scheme = scheme,
                     .columns = columns,
                     .codes = codes_of_words(element, packed, columns),
                     .scales = tensors.take_scales("weight_scale", {rows, groups}),
                     .zeros = {}};
  tensors.check_column_groups("weight_g_idx", columns, groups);
  if (!scheme.symmetric) {
    Tensor zeros = tensors.take("weight_zero_point", at::kInt, {words(element, rows), groups});
    weight.zeros = numbers_down(element, zeros, rows);
  } else if (tensors.find("weight_zero_point").defined()) {
    fail("{} exists although the scheme is symmetric", tensors.name("weight_zero_point"));
  }
  return weight;
}

// ---- quantization_config, written

bool lies_in(const std::string& module, const std::string& place) {
  return !place.empty() && module.starts_with(place + ".");
}

// Whether there is a draft layer and none of it is quantized.
bool keeps_draft(const std::vector<ModuleScheme>& linears, const std::string& draft) {
  auto of_draft = [&](const ModuleScheme& linear) { return lies_in(linear.module, draft); };
  return std::ranges::any_of(linears, of_draft) &&
         std::ranges::none_of(linears, [&](const ModuleScheme& linear) {
           return of_draft(linear) && linear.scheme;
         });
}

JsonValue weights_json(const Scheme& scheme, const std::string& observer) {
  bool channel = scheme.group_size == -1;
  JsonValue json;
  json["actorder"] = nullptr;
  json["block_structure"] = nullptr;
  json["dynamic"] = false;
  json["group_size"] = channel ? JsonValue(nullptr) : JsonValue(scheme.group_size);
  json["num_bits"] = scheme.element->bits;
  json["observer"] = observer;
  json["observer_kwargs"] = JsonValue::object();
  json["scale_dtype"] = nullptr;
  json["strategy"] = channel ? "channel" : "group";
  json["symmetric"] = scheme.symmetric;
  json["type"] = scheme.element->type;
  json["zp_dtype"] = scheme.symmetric ? JsonValue(nullptr) : JsonValue("torch.int8");
  return json;
}

// As compressed-tensors 0.19 writes it, without an observer. The checkpoint has no scales; servers
// then use 1.
JsonValue fp8_kv_cache_json() {
  return {{"actorder", nullptr},
          {"block_structure", nullptr},
          {"dynamic", false},
          {"group_size", nullptr},
          {"num_bits", 8},
          {"observer", nullptr},
          {"observer_kwargs", JsonValue::object()},
          {"scale_dtype", nullptr},
          {"strategy", "tensor"},
          {"symmetric", true},
          {"type", "float"},
          {"zp_dtype", nullptr}};
}

JsonValue config(const std::vector<ModuleScheme>& linears, const ConfigDetails& details) {
  std::vector<Scheme> schemes = distinct_schemes(linears);
  const std::vector<ModuleScheme> names = with_absent_parts(linears);
  JsonValue groups = JsonValue::object();
  for (size_t i = 0; i < schemes.size(); ++i) {
    JsonValue targets = JsonValue::array();
    for (const ModuleScheme& linear : names) {
      if (i > 0 && linear.scheme == schemes[i]) targets.push_back(linear.module);
    }
    if (i == 0) targets.push_back("Linear");
    JsonValue& group = groups[fmt::format("group_{}", i)];
    group["format"] = "pack-quantized";
    group["input_activations"] = nullptr;
    group["output_activations"] = nullptr;
    group["targets"] = targets;
    group["weights"] = weights_json(schemes[i], details.observer);
  }
  JsonValue ignore = JsonValue::array();
  const bool draft_kept = keeps_draft(linears, details.draft);
  for (const ModuleScheme& linear : names) {
    if (linear.scheme || (draft_kept && lies_in(linear.module, details.draft))) continue;
    ignore.push_back(linear.module);
  }
  if (draft_kept) ignore.push_back("re:^" + escaped(details.draft) + ".*");
  JsonValue json;
  json["config_groups"] = groups;
  json["format"] = "pack-quantized";
  json["global_compression_ratio"] = nullptr;
  json["ignore"] = ignore;
  json["kv_cache_scheme"] = details.fp8_kv_cache ? fp8_kv_cache_json() : JsonValue(nullptr);
  json["quant_method"] = "compressed-tensors";
  json["quantization_status"] = "compressed";
  json["sparsity_config"] = JsonValue::object();
  json["transform_config"] = JsonValue::object();
  json["version"] = kVersion;
  return json;
}

// ---- and read

Scheme scheme_in_group(const Json& weights) {
  const Element& element = required_element(weights, weights.get<std::string>("type", "int"),
                                            weights.get<int>("num_bits", 8));
  require(!weights.has("actorder") || weights.get<std::string>("actorder", "") != "group", weights,
          "activation ordering by groups (actorder: group)");
  auto group = weights.get<int64_t>("group_size", -1);
  const auto strategy = weights.get<std::string>("strategy", group > 0 ? "group" : "channel");
  if (strategy == "channel") group = -1;
  require(strategy == "channel" || (strategy == "group" && group > 0), weights,
          fmt::format("the strategy {} with group_size {}", strategy, group));
  return {
      .element = &element, .group_size = group, .symmetric = weights.get<bool>("symmetric", true)};
}

class RulesOfConfig {
 public:
  RulesOfConfig(const Json& json, const CompilePattern& compile) {
    if (json.has("ignore")) {
      for (const auto& name : json.get<std::vector<std::string>>("ignore")) {
        if (name.starts_with("re:")) {
          ignored_patterns_.push_back(compile(name.substr(3)));
        } else {
          ignored_.insert(name);
        }
      }
    }
    Json groups = json.at("config_groups");
    std::vector<std::pair<std::string, Scheme>> patterns;
    for (const auto& key : groups.keys()) {
      Json group = groups.at(key);
      require(!group.has("input_activations"), group, "activations are quantized too");
      if (!group.has("weights")) continue;
      std::string format =
          group.get<std::string>("format", json.get<std::string>("format", "pack-quantized"));
      require(format == "pack-quantized", group, fmt::format("the format is {}", format));
      Scheme scheme = scheme_in_group(group.at("weights"));
      for (const auto& target : group.get<std::vector<std::string>>("targets")) {
        if (target.starts_with("re:")) {
          patterns.emplace_back(target.substr(3), scheme);
        } else if (target == "Linear") {
          linear_ = scheme;
        } else {
          exact_[target] = scheme;
        }
      }
    }
    std::ranges::stable_sort(patterns, {}, &std::pair<std::string, Scheme>::first);
    for (const auto& [pattern, scheme] : patterns) patterns_.push_back({compile(pattern), scheme});
  }

  Decision operator()(const std::string& module) const {
    if (ignored_.contains(module)) return {std::nullopt, true};
    for (const Match& match : ignored_patterns_) {
      if (match(module)) return {std::nullopt, true};
    }
    if (auto found = exact_.find(module); found != exact_.end()) return {found->second, true};
    for (const Rule& rule : patterns_) {
      if (rule.match(module)) return {rule.scheme, true};
    }
    return {linear_, false};
  }

 private:
  std::unordered_set<std::string> ignored_;
  std::vector<Match> ignored_patterns_;
  std::unordered_map<std::string, Scheme> exact_;
  std::vector<Rule> patterns_;    // sorted by their text
  std::optional<Scheme> linear_;  // for the class Linear
};

Rules rules(const Json& config, const CompilePattern& compile) {
  return RulesOfConfig(config, compile);
}

}  // namespace

extern const Format kCompressedTensors = {.name = "compressed-tensors",
                                          .quant_methods = kMethods,
                                          .parts = kParts,
                                          .grid = Grid::compressed_tensors,
                                          .own_config_file = false,
                                          .scale_dtype = own_dtype,
                                          .refusal = refusal,
                                          .planned = planned,
                                          .to_disk = to_disk,
                                          .from_disk = from_disk,
                                          .config = config,
                                          .rules = rules};

}  // namespace quern::quant
