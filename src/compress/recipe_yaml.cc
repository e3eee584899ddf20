#include "compress/recipe_yaml.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <unordered_set>

#include "base/yaml.h"
#include "compress/auto_round_rules.h"
#include "compress/method.h"

namespace quern::compress {
namespace {

std::string escaped(std::string_view text) {
  std::string pattern;
  for (char c : text) {
    if (std::string_view(".^$*+?()[]{}|\\").find(c) != std::string_view::npos) pattern += '\\';
    pattern += c;
  }
  return pattern;
}

// Translates auto-round's rules into llm-compressor's: a full name stays, everything else becomes
// an expression.
Step translated(const Step& step, const Resolution& resolution) {
  Step result = step;
  result.ignore.clear();
  result.layers.clear();
  std::unordered_set<std::string_view> names;
  for (const Verdict& verdict : resolution.verdicts) names.insert(verdict.name);
  for (std::string entry : step.ignore) {
    if (!entry.starts_with("re:")) std::erase(entry, ' ');
    const bool whole = names.contains(entry) || entry.starts_with("re:");
    result.ignore.push_back(whole ? entry : "re:.*" + escaped(ignored_part(entry)));
  }
  for (const LayerRule& rule : step.layers) {
    const bool whole = names.contains(rule.pattern);
    const std::string target = whole ? rule.pattern : "re:" + search_expression(rule.pattern);
    if (rule.keep) {
      result.ignore.push_back(target);
      continue;
    }
    SchemeGroup group{.name = fmt::format("group_{}", result.groups.size()),
                      .targets = {target},
                      .scheme = step.groups.front().scheme};
    if (rule.group_size) group.scheme.group_size = *rule.group_size;
    if (rule.symmetric) group.scheme.symmetric = *rule.symmetric;
    result.groups.push_back(group);
  }
  for (const Verdict& verdict : resolution.verdicts) {
    if (verdict.too_narrow) result.ignore.push_back(verdict.name);
  }
  return result;
}

bool same_but_for_dtype(quant::Scheme a, const quant::Scheme& b) {
  a.scale_dtype = b.scale_dtype;
  return a == b;
}

// Lists a draft layer's linears by name, because no other rule in a file reaches them.
void name_drafts(Step& step, size_t index, const Resolution& resolution) {
  for (const Verdict& verdict : resolution.verdicts) {
    if (!verdict.draft || verdict.step != index) continue;
    for (SchemeGroup& group : step.groups) {
      if (!same_but_for_dtype(group.scheme, *verdict.scheme)) continue;
      group.targets.push_back(verdict.name);
      break;
    }
  }
}

JsonValue group_json(const SchemeGroup& group) {
  JsonValue weights = {{"num_bits", group.scheme.element->bits},
                       {"type", group.scheme.element->type},
                       {"symmetric", group.scheme.symmetric}};
  bool channel = group.scheme.group_size == -1;
  if (!channel) weights["group_size"] = group.scheme.group_size;
  weights["strategy"] = channel ? "channel" : "group";
  if (group.act_order == ActOrder::by_activation) weights["actorder"] = "static";
  weights["observer"] = group.observer == quant::Observer::mse ? "mse" : "memoryless_minmax";
  if (group.observer == quant::Observer::mse) {
    weights["observer_kwargs"] = {{"maxshrink", group.shrink.maxshrink},
                                  {"patience", group.shrink.patience},
                                  {"grid", group.shrink.grid},
                                  {"norm", group.shrink.norm}};
  }
  return {{"targets", group.targets}, {"weights", weights}};
}

// Adds how a step quantizes; adds nothing for a step that does not.
void add_quantization(JsonValue& json, const Step& step) {
  if (step.fp8_kv_cache)
    json["kv_cache_scheme"] = {{"num_bits", 8},
                               {"type", "float"},
                               {"strategy", "tensor"},
                               {"symmetric", true},
                               {"dynamic", false}};
  if (step.groups.empty()) return;
  const bool plain = step.groups.size() == 1 && step.groups[0].scheme.group_size == 128 &&
                     step.groups[0].observer == quant::Observer::minmax &&
                     step.groups[0].act_order == ActOrder::none;
  if (plain) json["targets"] = step.groups[0].targets;
  for (const SchemeGroup& group : step.groups) {
    if (!plain) json["config_groups"][group.name] = group_json(group);
  }
  json["ignore"] = step.ignore;
  if (plain) json["scheme"] = step.groups[0].scheme.symmetric ? "W4A16" : "W4A16_ASYM";
  json["bypass_divisibility_checks"] = false;
}

JsonValue step_json(const Step& step) {
  JsonValue json = JsonValue::object();
  add_quantization(json, step);
  method_of_modifier(step.modifier)->write(step, json);
  return json;
}

}  // namespace

std::string recipe_yaml(const Recipe& recipe, const Resolution& resolution) {
  JsonValue stage = JsonValue::object();
  for (size_t i = 0; i < recipe.steps.size(); ++i) {
    const Step& step = recipe.steps[i];
    const bool auto_round = recipe.style == RuleStyle::auto_round;
    Step written = auto_round ? translated(step, resolution) : step;
    name_drafts(written, i, resolution);
    const JsonValue fields = step_json(written);
    // A mapping can hold a modifier only once, so a repeated modifier starts a new mapping.
    std::string group = "default_modifiers";
    for (int n = 1; stage.contains(group) && stage[group].contains(step.modifier); ++n) {
      group = fmt::format("default_{}_modifiers", n);
    }
    stage[group][step.modifier] = fields;
  }
  return to_yaml({{"default_stage", stage}});
}

}  // namespace quern::compress
