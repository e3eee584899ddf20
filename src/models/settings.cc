#include "models/settings.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <span>

#include "base/error.h"

namespace quern::models {
namespace {

// Words in the names of settings that affect the arithmetic.
constexpr std::string_view kArithmetic[] = {
    "act",  "alibi",   "attention", "attn",   "bias", "cap",    "clip", "expert",
    "gate", "group",   "head",      "logit",  "mlp",  "moe",    "mult", "norm",
    "qk",   "resid",   "rope",      "rotary", "scal", "router", "scor", "shared",
    "sink", "sliding", "sparse",    "theta",  "topk", "window"};

// Settings with such words that only affect training, the choice of tokens, or another program. The
// last two rows are fields that transformers writes from a GenerationConfig.
constexpr std::string_view kInert[] = {
    "attn_implementation", "aux_loss_alpha",       "max_window_layers", "moe_router_dtype",
    "output_attentions",   "output_router_logits", "router_dtype",      "router_aux_loss_coef",
    "router_jitter_noise", "guidance_scale",       "num_beam_groups",   "output_logits",
    "output_scores",       "renormalize_logits"};

// Dropout only affects training, and faster implementations of attention compute the same function.
constexpr std::string_view kInertParts[] = {"dropout", "pdrop", "flash_attention", "flash_attn",
                                            "memory_efficient_attention"};

bool contains_any(const std::string& key, std::span<const std::string_view> words) {
  return std::ranges::any_of(
      words, [&](std::string_view word) { return key.find(word) != std::string::npos; });
}

// A leading underscore marks a program's private key.
bool is_inert(const std::string& key) {
  return key.starts_with('_') || contains_any(key, kInertParts) ||
         std::ranges::find(kInert, key) != std::end(kInert);
}

bool says_nothing(const JsonValue& value) {
  return value.is_null() || value == JsonValue(false) || (value.is_number() && value == 0) ||
         ((value.is_structured() || value.is_string()) && value.empty());
}

}  // namespace

void Settings::only(const std::string& key, const std::vector<std::string>& wanted) const {
  if (!has(key)) return;
  const JsonValue& value = json_.value().at(key);
  for (const std::string& text : wanted)
    if (value == parse_json(text, key)) return;
  fail("{}: {} {} is not implemented; implemented: {}", path(), key, value.dump(),
       fmt::join(wanted, " or "));
}

ops::Rope Settings::rope(int64_t head_dim, const ops::RopeDefaults& defaults) const {
  read_.insert({"rope_parameters", "rope_scaling", "rope_theta", "partial_rotary_factor"});
  return ops::Rope(json_, head_dim, defaults);
}

void Settings::refuse_unread() const {
  for (const std::string& key : json_.keys()) {
    const JsonValue& value = json_.value().at(key);
    if (read_.contains(key) || !contains_any(key, kArithmetic) || is_inert(key) ||
        says_nothing(value))
      continue;
    fail("{}: {} {} is unknown for this architecture and may change its results", path(), key,
         value.dump());
  }
}

void check_heads(const std::string& path, int heads, int kv_heads, int head_dim) {
  if (heads < 1 || kv_heads < 1 || head_dim < 1 || heads % kv_heads != 0)
    fail("{}: {} attention heads of {} dimensions do not divide into {} kv heads", path, heads,
         head_dim, kv_heads);
}

void check_experts_per_token(const std::string& path, const char* key, int64_t chosen,
                             int64_t experts) {
  if (chosen < 1 || chosen > experts)
    fail("{}: {} is {}, which is impossible with {} experts", path, key, chosen, experts);
}

void check_routing(const ops::SigmoidTopK& rule, int64_t experts, const std::string& path) {
  const int64_t groups = rule.groups, kept = rule.kept_groups;
  if (groups < 1 || kept < 1 || kept > groups || experts % groups != 0)
    fail("{}: topk_group {} is impossible with n_group {} and {} experts", path, kept, groups,
         experts);
  if (groups > 1 && experts / groups < 2)
    fail(
        "{}: n_group {} leaves a single one of {} experts in a group, but the score of a group "
        "needs two",
        path, groups, experts);
  check_experts_per_token(path, "num_experts_per_tok", rule.k, kept * (experts / groups));
}

void check_layer_types(const std::string& path, const std::vector<std::string>& types, int layers,
                       const std::vector<std::string>& known) {
  if (std::ssize(types) != layers)
    fail("{}: layer_types has {} entries for {} layers", path, types.size(), layers);
  for (const std::string& type : types)
    if (std::ranges::find(known, type) == known.end())
      fail("{}: layer type \"{}\" is unknown; known: {}", path, type, fmt::join(known, ", "));
}

void expect_last_block(const nn::Weights& place, int layers) {
  if (layers < 1) fail("config.json: num_hidden_layers is {}, but must be at least 1", layers);
  if (!(place / layers).has("input_layernorm.weight")) return;
  fail("{}: config.json describes a model without this block: its num_hidden_layers is {}",
       place.path(std::to_string(layers)), layers);
}

}  // namespace quern::models
