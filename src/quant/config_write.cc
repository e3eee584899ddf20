#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "base/json_objects.h"
#include "quant/config.h"

namespace quern::quant {
namespace {

// A release of compressed-tensors whose files have exactly these keys; readers do not look at it.
constexpr const char* kCompressedTensorsVersion = "0.13.0";
// The release of auto-round that wrote this layout and these keys first.
constexpr const char* kAutoRoundVersion = "0.12.2";
constexpr const char* kProvider = "quern";

// The distinct schemes of the quantized linears, the commonest first, then in order of appearance.
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
    fail("nothing is quantized: every linear is kept, so there is no scheme to write");
  std::ranges::stable_sort(counts, std::ranges::greater(), &std::pair<Scheme, int64_t>::second);
  std::vector<Scheme> schemes;
  for (const auto& [scheme, count] : counts) schemes.push_back(scheme);
  return schemes;
}

// With the parts of fused units that the model lacks, after the last one that it has.
std::vector<ModuleScheme> with_absent_parts(const std::vector<ModuleScheme>& linears) {
  std::set<std::string_view> present;
  std::map<std::string_view, size_t> last;  // by unit
  for (size_t i = 0; i < linears.size(); ++i) {
    present.insert(linears[i].module);
    if (!linears[i].fused.empty()) last[linears[i].fused] = i;
  }
  std::vector<ModuleScheme> all;
  for (size_t i = 0; i < linears.size(); ++i) {
    all.push_back(linears[i]);
    if (linears[i].fused.empty() || last[linears[i].fused] != i) continue;
    for (const std::string& part : fused_parts(linears[i].fused)) {
      if (!present.contains(part)) all.push_back({part, linears[i].scheme, linears[i].fused});
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

bool lies_in(const std::string& module, const std::string& place) {
  return !place.empty() && module.starts_with(place + ".");
}

// Whether there is a draft layer, and nothing of it is quantized.
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
  json["num_bits"] = scheme.bits;
  json["observer"] = observer;
  json["observer_kwargs"] = JsonValue::object();
  json["scale_dtype"] = nullptr;
  json["strategy"] = channel ? "channel" : "group";
  json["symmetric"] = scheme.symmetric;
  json["type"] = "int";
  json["zp_dtype"] = scheme.symmetric ? JsonValue(nullptr) : JsonValue("torch.int8");
  return json;
}

// As compressed-tensors 0.19 writes it: no observer is named. Without scales in the
// checkpoint, servers take 1.
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

JsonValue compressed_tensors_config(const std::vector<ModuleScheme>& linears,
                                    const ConfigDetails& details) {
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
  json["version"] = kCompressedTensorsVersion;
  return json;
}

// The keys in which a linear differs from the default scheme; empty when it does not.
JsonValue override_of(const std::optional<Scheme>& scheme, const Scheme& usual) {
  if (!scheme) return {{"bits", 16}, {"data_type", "fp"}};
  JsonValue json = JsonValue::object();
  if (scheme->group_size != usual.group_size) json["group_size"] = scheme->group_size;
  if (scheme->symmetric != usual.symmetric) json["sym"] = scheme->symmetric;
  return json;
}

// Linears that are not stored as `usual`, followed by the fused name of every unit of them: some
// versions of vLLM look up the parts, others the unit. Experts are one module there, so theirs have
// none.
std::vector<std::pair<std::string, JsonValue>> overrides(const std::vector<ModuleScheme>& linears,
                                                         const Scheme& usual) {
  std::vector<std::pair<std::string, JsonValue>> entries;
  std::map<std::string, std::vector<const ModuleScheme*>> units;
  const std::vector<ModuleScheme> names = with_absent_parts(linears);
  for (const ModuleScheme& linear : names) {
    if (!fused_parts(linear.fused).empty()) units[linear.fused].push_back(&linear);
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

// auto-round leaves out what equals its defaults.
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

JsonValue auto_round_config(const std::vector<ModuleScheme>& linears,
                            const ConfigDetails& details) {
  Scheme usual = distinct_schemes(linears).front();
  JsonValue json;
  json["autoround_version"] = kAutoRoundVersion;
  json["bits"] = usual.bits;
  json["data_type"] = "int";
  json["group_size"] = usual.group_size;
  json["packing_format"] = "auto_round:auto_gptq";
  json["provider"] = kProvider;
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

// The name inside its block: "mlp.up_proj" of "model.layers.3.mlp.up_proj"; none outside of blocks.
std::optional<std::string> name_in_block(const std::string& module) {
  size_t layers = module.find(".layers.");
  if (layers == std::string::npos) return std::nullopt;
  size_t dot = module.find('.', layers + 8);
  if (dot == std::string::npos) return std::nullopt;
  return module.substr(dot + 1);
}

JsonValue gptq_config(const std::vector<ModuleScheme>& linears, const ConfigDetails& details) {
  Scheme usual = distinct_schemes(linears).front();
  JsonValue dynamic = JsonValue::object();
  for (const auto& [module, entry] : overrides(linears, usual)) {
    bool kept = entry.contains("bits");
    // vLLM's names have another prefix than the checkpoint's, so only the end is anchored.
    append(dynamic, (kept ? "-:.*" : "+:.*") + escaped(module) + "$",
           kept ? JsonValue::object() : entry);
  }
  std::set<std::string> quantized;
  bool head = false;
  for (const ModuleScheme& linear : with_absent_parts(linears)) {
    if (!linear.scheme) continue;
    head |= linear.module.ends_with("lm_head");
    if (auto name = name_in_block(linear.module)) quantized.insert(*name);
  }
  JsonValue json;
  json["bits"] = usual.bits;
  json["checkpoint_format"] = "gptq";
  json["damp_percent"] = 0.01;
  json["data_type"] = "int";
  json["desc_act"] = false;
  if (!dynamic.empty()) json["dynamic"] = dynamic;
  json["group_size"] = usual.group_size;
  json["lm_head"] = head;
  json["modules_in_block_to_quantize"] = JsonValue::array({JsonValue(quantized)});
  json["provider"] = kProvider;
  json["quant_method"] = "gptq";
  json["sym"] = usual.symmetric;
  json["true_sequential"] = false;
  add_tuning(json, details);
  return sorted(json);
}

}  // namespace

JsonValue quantization_config(Format format, const std::vector<ModuleScheme>& linears,
                              const ConfigDetails& details) {
  switch (format) {
    case Format::compressed_tensors:
      return compressed_tensors_config(linears, details);
    case Format::auto_round:
      return auto_round_config(linears, details);
    case Format::gptq:
      return gptq_config(linears, details);
  }
  QUERN_CHECK(false);
  return {};
}

}  // namespace quern::quant
