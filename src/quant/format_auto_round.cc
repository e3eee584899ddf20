// auto-round, "auto_round:auto_gptq": GPTQ's layout without .g_idx. extra_config names every linear
// whose scheme differs from the default, and vLLM's fused names.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "base/error.h"
#include "base/json_objects.h"
#include "quant/config_parts.h"
#include "quant/gptq_layout.h"

namespace quern::quant {
namespace {

constexpr std::string_view kMethods[] = {"auto-round", "auto_round"};
// The first release of auto-round that wrote this layout and these keys.
constexpr const char* kVersion = "0.12.2";

JsonValue config(const std::vector<ModuleScheme>& linears, const ConfigDetails& details) {
  Scheme usual = distinct_schemes(linears).front();
  JsonValue json;
  json["autoround_version"] = kVersion;
  json["bits"] = usual.element->bits;
  json["data_type"] = usual.element->type;
  json["group_size"] = usual.group_size;
  json["packing_format"] = "auto_round:auto_gptq";
  json["provider"] = "quern";
  json["quant_method"] = "auto-round";
  json["sym"] = usual.symmetric;
  if (details.blocks.size() == 1) {
    json["block_name_to_quantize"] = details.blocks.front();
  } else if (!details.blocks.empty()) {
    json["block_name_to_quantize"] = details.blocks;
  }
  add_tuning(json, details);
  JsonValue extra = JsonValue::object();
  for (auto& [module, entry] : overrides(linears, usual)) append(extra, module, std::move(entry));
  if (!extra.empty()) json["extra_config"] = extra;
  return sorted(json);
}

// Whether `prefix` is a prefix of the name that ends at a component's end.
bool inside(std::string_view module, std::string_view prefix) {
  return module.starts_with(prefix) &&
         (module.size() == prefix.size() || module[prefix.size()] == '.');
}

std::vector<std::string> block_names(const Json& json) {
  if (!json.has("block_name_to_quantize")) return {};
  Json value = json.at("block_name_to_quantize");
  if (!value.is_string()) return value.as<std::vector<std::string>>();
  std::vector<std::string> names;
  std::string text = value.as<std::string>();
  for (size_t begin = 0; begin <= text.size();) {
    size_t end = std::min(text.find(',', begin), text.size());
    std::string name = text.substr(begin, end - begin);
    std::erase(name, ' ');
    if (!name.empty()) names.push_back(name);
    begin = end + 1;
  }
  return names;
}

// re.search, made from a matcher that is anchored at the start.
Match search(const CompilePattern& compile, const std::string& pattern) {
  return compile("(?s:.*?)(?:" + pattern + ")");
}

class RulesOfConfig {
 public:
  RulesOfConfig(const Json& json, const CompilePattern& compile)
      : usual_(usual_scheme(json)), blocks_(block_names(json)) {
    const auto packing = json.get<std::string>("packing_format", "auto_round:auto_gptq");
    require(packing == "auto_round:auto_gptq", json,
            fmt::format("packing_format is {}, only auto_round:auto_gptq is read", packing));
    if (!json.has("extra_config")) return;
    Json extra = json.at("extra_config");
    for (const auto& [key, entry] : entries(extra)) {
      auto scheme = scheme_in(entry, usual_);
      exact_[key] = scheme;
      bool pattern = key.find_first_of("*+?^$()[]{}|\\") != std::string::npos;
      if (pattern) patterns_.push_back({search(compile, key), scheme});
    }
  }

  Decision operator()(const std::string& module) const {
    if (auto found = exact_.find(module); found != exact_.end()) return {found->second, true};
    bool outside = !blocks_.empty() && std::ranges::none_of(blocks_, [&](const std::string& block) {
      return inside(module, block);
    });
    if (outside) return {std::nullopt, false};
    for (const Rule& rule : patterns_) {
      if (rule.match(module)) return {rule.scheme, true};
    }
    return {usual_, false};
  }

 private:
  Scheme usual_;
  std::vector<std::string> blocks_;
  std::unordered_map<std::string, std::optional<Scheme>> exact_;
  std::vector<Rule> patterns_;
};

Rules rules(const Json& config, const CompilePattern& compile) {
  return RulesOfConfig(config, compile);
}

}  // namespace

extern const Format kAutoRound = {.name = "auto_gptq",
                                  .quant_methods = kMethods,
                                  .parts = gptq_layout::kParts,
                                  .grid = Grid::auto_round,
                                  .own_config_file = true,
                                  .scale_dtype = gptq_layout::scale_dtype,
                                  .refusal = gptq_layout::refusal,
                                  .planned = gptq_layout::planned,
                                  .to_disk = gptq_layout::to_disk,
                                  .from_disk = gptq_layout::from_disk,
                                  .config = config,
                                  .rules = rules};

}  // namespace quern::quant
