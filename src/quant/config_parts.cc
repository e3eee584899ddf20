#include "quant/config_parts.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/json_objects.h"

namespace quern::quant {
namespace {

// The keys in which a linear differs from the default scheme; empty if equal.
JsonValue override_of(const std::optional<Scheme>& scheme, const Scheme& usual) {
  if (!scheme) return {{"bits", 16}, {"data_type", "fp"}};
  JsonValue json = JsonValue::object();
  if (scheme->element != usual.element) {
    json["bits"] = scheme->element->bits;
    json["data_type"] = scheme->element->type;
  }
  if (scheme->group_size != usual.group_size) json["group_size"] = scheme->group_size;
  if (scheme->symmetric != usual.symmetric) json["sym"] = scheme->symmetric;
  return json;
}

}  // namespace

void require(bool condition, const Json& json, std::string_view what) {
  if (!condition) fail("{}: {}; quern reads {} weights", json.path(), what, element_names());
}

const Element& required_element(const Json& json, const std::string& type, int bits) {
  const Element* element = element_of(type, bits);
  require(element != nullptr, json, fmt::format("its weights are {} of {} bits", type, bits));
  return *element;
}

std::vector<Scheme> distinct_schemes(const std::vector<ModuleScheme>& linears) {
  std::vector<std::pair<Scheme, int64_t>> counts;
  for (const ModuleScheme& linear : linears) {
    if (!linear.scheme) continue;
    auto found = std::ranges::find(counts, *linear.scheme, &std::pair<Scheme, int64_t>::first);
    if (found == counts.end()) {
      counts.emplace_back(*linear.scheme, 1);
    } else {
      ++found->second;
    }
  }
  if (counts.empty())
    fail("quantization_config: every linear is kept, so there is no scheme to write");
  std::ranges::stable_sort(counts, std::ranges::greater(), &std::pair<Scheme, int64_t>::second);
  std::vector<Scheme> schemes;
  for (const auto& [scheme, count] : counts) schemes.push_back(scheme);
  return schemes;
}

std::vector<ModuleScheme> with_absent_parts(const std::vector<ModuleScheme>& linears) {
  std::vector<ModuleScheme> all;
  for (const ModuleScheme& linear : linears) {
    all.push_back(linear);
    const size_t place = linear.module.size() - linear.in_block.size();
    for (const std::string& part : linear.absent) {
      const std::string in_block = linear.in_block.empty() ? "" : part.substr(place);
      all.push_back({part, linear.scheme, linear.fused, {}, in_block});
    }
  }
  return all;
}

std::string escaped(std::string_view name) {
  std::string pattern;
  for (char c : name) {
    if (c == '.') pattern += '\\';
    pattern += c;
  }
  return pattern;
}

std::vector<std::pair<std::string, JsonValue>> overrides(const std::vector<ModuleScheme>& linears,
                                                         const Scheme& usual) {
  std::vector<std::pair<std::string, JsonValue>> entries;
  std::map<std::string, std::vector<const ModuleScheme*>> units;
  const std::vector<ModuleScheme> names = with_absent_parts(linears);
  for (const ModuleScheme& linear : names) {
    if (!linear.fused.empty() && !linear.expert) units[linear.fused].push_back(&linear);
    JsonValue entry = override_of(linear.scheme, usual);
    if (!entry.empty()) entries.emplace_back(linear.module, std::move(entry));
  }
  for (const auto& [unit, parts] : units) {
    JsonValue entry = override_of(parts.front()->scheme, usual);
    const bool alike = std::ranges::all_of(
        parts, [&](const ModuleScheme* part) { return part->scheme == parts.front()->scheme; });
    if (alike && !entry.empty()) entries.emplace_back(unit, std::move(entry));
  }
  std::ranges::sort(entries, {}, &std::pair<std::string, JsonValue>::first);
  return entries;
}

void add_tuning(JsonValue& json, const ConfigDetails& details) {
  if (details.batch_size != 8) json["batch_size"] = details.batch_size;
  if (details.iters == 0) json["enable_quanted_input"] = false;
  if (details.iters != 200) json["iters"] = details.iters;
  if (details.learning_rate) json["lr"] = *details.learning_rate;
  if (details.samples != 128) json["nsamples"] = details.samples;
  if (details.sequence_length != 2048) json["seqlen"] = details.sequence_length;
}

JsonValue sorted(const JsonValue& json) {
  std::map<std::string, JsonValue> keys;
  for (const auto& [key, value] : json.items()) keys.emplace(key, value);
  JsonValue result = JsonValue::object();
  for (const auto& [key, value] : keys) append(result, key, value);
  return result;
}

std::optional<Scheme> scheme_in(const Json& json, const Scheme& usual) {
  const int bits = json.get<int>("bits", usual.element->bits);
  if (bits >= 16) return std::nullopt;
  const auto type = json.get<std::string>("data_type", "int");
  const auto group = json.get<int64_t>("group_size", usual.group_size);
  require(group > 0 || group == -1, json, fmt::format("group_size is {}", group));
  return Scheme{.element = &required_element(json, type, bits),
                .group_size = group,
                .symmetric = json.get<bool>("sym", usual.symmetric),
                .scale_dtype = at::kHalf};
}

Scheme usual_scheme(const Json& json) {
  for (const char* key : {"bits", "group_size"}) json.at(key);
  auto scheme = scheme_in(json, {});
  require(scheme.has_value(), json, "bits is 16 or more");
  return *scheme;
}

}  // namespace quern::quant
