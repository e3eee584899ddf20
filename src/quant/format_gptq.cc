// GPTQ, as AutoGPTQ and GPTQModel write it: GPTQ's layout with .g_idx. The patterns in `dynamic`
// exclude the kept linears.
#include <nlohmann/json.hpp>
#include <set>
#include <unordered_set>

#include "base/error.h"
#include "base/json_objects.h"
#include "quant/config_parts.h"
#include "quant/gptq_layout.h"
#include "quant/module_tensors.h"

namespace quern::quant {
namespace {

constexpr std::string_view kMethods[] = {"gptq"};

// ---- tensors

std::vector<DiskTensor> planned(const std::string& module, int64_t rows, int64_t columns,
                                const Scheme& scheme) {
  auto tensors = gptq_layout::planned(module, rows, columns, scheme);
  tensors.push_back({module + ".g_idx", at::kInt, {columns}});
  return tensors;
}

std::vector<Tensor> to_disk(const QuantWeight& weight) {
  auto tensors = gptq_layout::to_disk(weight);
  tensors.push_back(group_of_columns(weight.columns, weight.columns / weight.scales.size(1)));
  return tensors;
}

QuantWeight from_disk(const std::string& module, const Scheme& scheme, const Lookup& lookup) {
  const ModuleTensors tensors(module, lookup);
  if (!tensors.find("g_idx").defined()) fail("{} is missing", tensors.name("g_idx"));
  return gptq_layout::from_disk(module, scheme, lookup);
}

// ---- quantization_config, written

JsonValue config(const std::vector<ModuleScheme>& linears, const ConfigDetails& details) {
  Scheme usual = distinct_schemes(linears).front();
  JsonValue dynamic = JsonValue::object();
  for (const auto& [module, entry] : overrides(linears, usual)) {
    bool kept = entry.contains("bits");
    // vLLM's names and the checkpoint's have different prefixes, so only the end is anchored.
    append(dynamic, (kept ? "-:.*" : "+:.*") + escaped(module) + "$",
           kept ? JsonValue::object() : entry);
  }
  std::set<std::string> quantized;
  bool head = false;
  for (const ModuleScheme& linear : with_absent_parts(linears)) {
    if (!linear.scheme) continue;
    head |= linear.head;
    if (!linear.in_block.empty()) quantized.insert(linear.in_block);
  }
  JsonValue json;
  json["bits"] = usual.element->bits;
  json["checkpoint_format"] = "gptq";
  json["damp_percent"] = 0.01;
  json["data_type"] = usual.element->type;
  json["desc_act"] = false;
  if (!dynamic.empty()) json["dynamic"] = dynamic;
  json["group_size"] = usual.group_size;
  json["lm_head"] = head;
  json["modules_in_block_to_quantize"] = JsonValue::array({JsonValue(quantized)});
  json["provider"] = "quern";
  json["quant_method"] = "gptq";
  json["sym"] = usual.symmetric;
  json["true_sequential"] = false;
  add_tuning(json, details);
  return sorted(json);
}

// ---- and read

class RulesOfConfig {
 public:
  RulesOfConfig(const Json& json, const CompilePattern& compile)
      : usual_(usual_scheme(json)), head_(json.get<bool>("lm_head", false)) {
    require(!json.get<bool>("desc_act", false), json, "desc_act is true (activation ordering)");
    std::string version = json.get<std::string>("checkpoint_format", "gptq");
    require(version == "gptq", json, fmt::format("checkpoint_format is {}", version));
    if (json.has("dynamic")) {
      Json dynamic = json.at("dynamic");
      for (const auto& [key, entry] : entries(dynamic)) {
        bool excludes = key.starts_with("-:");
        std::string pattern = excludes || key.starts_with("+:") ? key.substr(2) : key;
        patterns_.push_back({compile(pattern), excludes ? std::nullopt : scheme_in(entry, usual_)});
      }
    }
    if (json.has("modules_in_block_to_quantize"))
      read_modules(json.at("modules_in_block_to_quantize"));
  }

  Decision operator()(const std::string& module) const {
    for (const Rule& rule : patterns_) {
      if (rule.match(module)) return {rule.scheme, true};
    }
    if (module.ends_with("lm_head")) {
      return {head_ ? std::optional(usual_) : std::nullopt, true};
    }
    if (!modules_.empty() && !listed(module)) return {std::nullopt, false};
    return {usual_, false};
  }

 private:
  void read_modules(const Json& lists) {
    for (size_t i = 0; i < lists.size(); ++i) {
      Json entry = lists.at(i);
      if (entry.is_string()) {
        modules_.insert(entry.as<std::string>());
        continue;
      }
      for (const auto& name : entry.as<std::vector<std::string>>()) modules_.insert(name);
    }
  }

  // Whether the list has a suffix of the name that begins at a component.
  bool listed(const std::string& module) const {
    for (size_t dot = module.find('.'); dot != std::string::npos; dot = module.find('.', dot + 1)) {
      if (modules_.contains(module.substr(dot + 1))) return true;
    }
    return modules_.contains(module);
  }

  Scheme usual_;
  bool head_;
  std::vector<Rule> patterns_;
  std::unordered_set<std::string> modules_;
};

Rules rules(const Json& config, const CompilePattern& compile) {
  return RulesOfConfig(config, compile);
}

}  // namespace

extern const Format kGptq = {.name = "gptq",
                             .quant_methods = kMethods,
                             .parts = gptq_layout::kParts,
                             .grid = Grid::auto_round,
                             .own_config_file = true,
                             .scale_dtype = gptq_layout::scale_dtype,
                             .refusal = gptq_layout::refusal,
                             .planned = planned,
                             .to_disk = to_disk,
                             .from_disk = from_disk,
                             .config = config,
                             .rules = rules};

}  // namespace quern::quant
