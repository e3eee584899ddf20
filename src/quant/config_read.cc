#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <unordered_map>
#include <unordered_set>

#include "base/error.h"
#include "base/json_objects.h"
#include "quant/config.h"

namespace quern::quant {
namespace {

using Decision = QuantizationConfig::Decision;
using Decide = std::function<Decision(const std::string&)>;

// A pattern with what it decides.
struct Rule {
  Match match;
  std::optional<Scheme> scheme;
};

std::string text_or(const Json& json, std::string_view key, const std::string& otherwise) {
  return json.get<std::string>(key, otherwise);
}

void require(bool condition, const Json& json, std::string_view what) {
  if (!condition) fail("{}: {}; quern reads 4-bit integer weights", json.path(), what);
}

// ---- compressed-tensors

Scheme compressed_tensors_scheme(const Json& weights) {
  int bits = weights.get<int>("num_bits", 8);
  require(bits == 4, weights, fmt::format("num_bits is {}", bits));
  require(text_or(weights, "type", "int") == "int", weights, "the type is not int");
  require(!weights.has("actorder") || text_or(weights, "actorder", "") != "group", weights,
          "activation ordering by groups (actorder: group)");
  int64_t group = weights.get<int64_t>("group_size", -1);
  std::string strategy = text_or(weights, "strategy", group > 0 ? "group" : "channel");
  if (strategy == "channel") group = -1;
  require(strategy == "channel" || (strategy == "group" && group > 0), weights,
          fmt::format("the strategy {} with group_size {}", strategy, group));
  return {.group_size = group, .symmetric = weights.get<bool>("symmetric", true)};
}

class CompressedTensorsRules {
 public:
  CompressedTensorsRules(const Json& json, const CompilePattern& compile) {
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
      std::string format = text_or(group, "format", text_or(json, "format", "pack-quantized"));
      require(format == "pack-quantized", group, fmt::format("the format is {}", format));
      Scheme scheme = compressed_tensors_scheme(group.at("weights"));
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
  std::vector<Rule> patterns_;    // in the order of their text
  std::optional<Scheme> linear_;  // of the class Linear
};

// ---- auto-round and GPTQ

// `json` may leave out what `usual` says. None: 16 bits or more.
std::optional<Scheme> gptq_scheme(const Json& json, const Scheme& usual) {
  int bits = json.get<int>("bits", usual.bits);
  if (bits >= 16) return std::nullopt;
  require(bits == 4, json, fmt::format("bits is {}", bits));
  require(text_or(json, "data_type", "int") == "int", json, "data_type is not int");
  int64_t group = json.get<int64_t>("group_size", usual.group_size);
  require(group > 0 || group == -1, json, fmt::format("group_size is {}", group));
  return Scheme{.group_size = group,
                .symmetric = json.get<bool>("sym", usual.symmetric),
                .scale_dtype = at::kHalf};
}

Scheme usual_scheme(const Json& json) {
  for (const char* key : {"bits", "group_size"}) json.at(key);
  auto scheme = gptq_scheme(json, {});
  require(scheme.has_value(), json, "bits is 16 or more");
  return *scheme;
}

// A name prefix that ends where a component ends.
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

// re.search by a matcher that is anchored at the start.
Match search(const CompilePattern& compile, const std::string& pattern) {
  return compile("(?s:.*?)(?:" + pattern + ")");
}

class AutoRoundRules {
 public:
  AutoRoundRules(const Json& json, const CompilePattern& compile)
      : usual_(usual_scheme(json)), blocks_(block_names(json)) {
    std::string packing = text_or(json, "packing_format", "auto_round:auto_gptq");
    require(packing == "auto_round:auto_gptq", json,
            fmt::format("packing_format is {}, only auto_round:auto_gptq is read", packing));
    if (!json.has("extra_config")) return;
    Json extra = json.at("extra_config");
    for (const auto& [key, entry] : entries(extra)) {
      auto scheme = gptq_scheme(entry, usual_);
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

class GptqRules {
 public:
  GptqRules(const Json& json, const CompilePattern& compile)
      : usual_(usual_scheme(json)), head_(json.get<bool>("lm_head", false)) {
    require(!json.get<bool>("desc_act", false), json, "desc_act is true (activation ordering)");
    std::string version = text_or(json, "checkpoint_format", "gptq");
    require(version == "gptq", json, fmt::format("checkpoint_format is {}", version));
    if (json.has("dynamic")) {
      Json dynamic = json.at("dynamic");
      for (const auto& [key, entry] : entries(dynamic)) {
        bool excludes = key.starts_with("-:");
        std::string pattern = excludes || key.starts_with("+:") ? key.substr(2) : key;
        patterns_.push_back(
            {compile(pattern), excludes ? std::nullopt : gptq_scheme(entry, usual_)});
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

  // Whether some end of the name, cut at a dot, is listed.
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

}  // namespace

std::vector<std::string> fused_parts(std::string_view module) {
  static const std::map<std::string, std::vector<std::string>, std::less<>> kUnits = {
      {"qkv_proj", {"q_proj", "k_proj", "v_proj"}},
      {"gate_up_proj", {"gate_proj", "up_proj"}},
      {"in_proj_qkvz", {"in_proj_qkv", "in_proj_z"}},
      {"in_proj_ba", {"in_proj_b", "in_proj_a"}},
  };
  const size_t last = module.rfind('.') + 1;  // 0 without a dot
  const auto unit = kUnits.find(module.substr(last));
  if (unit == kUnits.end()) return {};
  std::vector<std::string> parts = unit->second;
  for (std::string& part : parts) part.insert(0, module.substr(0, last));
  return parts;
}

QuantizationConfig::QuantizationConfig(const Json& json, const CompilePattern& compile) {
  std::string method = json.get<std::string>("quant_method");
  if (method == "compressed-tensors") {
    format_ = Format::compressed_tensors;
    decide_ = CompressedTensorsRules(json, compile);
  } else if (method == "auto-round" || method == "auto_round") {
    format_ = Format::auto_round;
    decide_ = AutoRoundRules(json, compile);
  } else if (method == "gptq") {
    format_ = Format::gptq;
    decide_ = GptqRules(json, compile);
  } else {
    fail("{}: quant_method is {}; quern reads compressed-tensors, auto-round and gptq", json.path(),
         method);
  }
}

std::optional<Scheme> QuantizationConfig::scheme_of(const std::string& module) const {
  return decide_(module).scheme;
}

void QuantizationConfig::check_unit(const std::string& unit,
                                    const std::vector<std::string>& parts) const {
  const std::optional<Scheme> scheme = scheme_of(parts.front());
  for (const std::string& part : parts) {
    if (scheme_of(part) == scheme) continue;
    fail("quantization_config: {} and {} are parts of {} but are stored differently", parts.front(),
         part, unit);
  }
  const Decision whole = decide_(unit);
  if (!whole.named || whole.scheme == scheme) return;
  fail("quantization_config: {} is said to be stored differently from {}, which is a part of it",
       unit, parts.front());
}

}  // namespace quern::quant
