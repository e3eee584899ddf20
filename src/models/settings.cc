#include "models/settings.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace quern::models {
namespace {

// Words in the names of settings that change what a model computes.
constexpr std::string_view kArithmetic[] = {
    "act",     "alibi",  "attention", "attn",   "bias",  "cap",  "clip",   "expert",
    "gate",    "group",  "logit",     "mlp",    "moe",   "mult", "norm",   "qk",
    "resid",   "rope",   "rotary",    "router", "scal",  "scor", "shared", "sink",
    "sliding", "sparse", "theta",     "topk",   "window"};

// Settings whose names speak of arithmetic, but that only training or another program looks at.
constexpr std::string_view kInert[] = {
    "_attn_implementation", "attention_dropout",   "attn_implementation",  "aux_loss_alpha",
    "moe_router_dtype",     "output_attentions",   "output_router_logits", "router_aux_loss_coef",
    "router_dtype",         "router_jitter_noise", "max_window_layers"};

bool says_nothing(const JsonValue& value) {
  return value.is_null() || value == JsonValue(false) ||
         ((value.is_structured() || value.is_string()) && value.empty());
}

}  // namespace

void only(const Json& c, const std::string& key, const std::vector<std::string>& wanted) {
  if (!c.has(key)) return;
  const JsonValue& value = c.value().at(key);
  for (const std::string& text : wanted)
    if (value == parse_json(text, key)) return;
  fail("{}: {} {} is not implemented, only {}", c.path(), key, value.dump(),
       fmt::join(wanted, " or "));
}

void refuse_unknown(const Json& c, const std::vector<std::string_view>& known) {
  for (const std::string& key : c.keys()) {
    const bool arithmetic = std::ranges::any_of(
        kArithmetic, [&](std::string_view word) { return key.find(word) != std::string::npos; });
    if (!arithmetic || std::ranges::find(known, key) != known.end() ||
        std::ranges::find(kInert, key) != std::end(kInert) || says_nothing(c.value().at(key)))
      continue;
    fail("{}: {} {} is not known for this architecture, and may change what it computes", c.path(),
         key, c.value().at(key).dump());
  }
}

void check_routing(const ops::SigmoidTopK& rule, int64_t experts, const std::string& path) {
  const int64_t groups = rule.groups, kept = rule.kept_groups;
  if (groups < 1 || kept < 1 || kept > groups || experts % groups != 0)
    fail("{}: topk_group {} of n_group {} groups of {} experts is not possible", path, kept, groups,
         experts);
  if (groups > 1 && experts / groups < 2)
    fail("{}: n_group {} leaves one of {} experts in a group, and two of each are compared", path,
         groups, experts);
  if (rule.k < 1 || rule.k > kept * (experts / groups))
    fail("{}: num_experts_per_tok {} of {} experts is not possible", path, rule.k,
         kept * (experts / groups));
}

void expect_last_block(const nn::Weights& place, int layers) {
  if (!(place / layers).has("input_layernorm.weight")) return;
  fail("{}: config.json describes a model without this block, its num_hidden_layers is {}",
       place.path(std::to_string(layers)), layers);
}

}  // namespace quern::models
