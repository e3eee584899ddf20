// GLM-4.5-Air and its fine-tunes.
#include <fmt/format.h>

#include "layouts/layout.h"

namespace quern::layouts {
namespace {

void add_layer(Layout& layout, const std::string& prefix, const Json& c, bool dense) {
  const int64_t hidden = c.get<int64_t>("hidden_size"), dim = c.get<int64_t>("head_dim"),
                queries = c.get<int64_t>("num_attention_heads") * dim,
                keys = c.get<int64_t>("num_key_value_heads") * dim,
                inner = c.get<int64_t>("moe_intermediate_size"),
                experts = c.get<int64_t>("n_routed_experts");
  layout.add(prefix + "input_layernorm.weight", {hidden}, Fill::norm);
  layout.add(prefix + "post_attention_layernorm.weight", {hidden}, Fill::norm);
  for (const auto& [name, rows] : {std::pair{"q", queries}, {"k", keys}, {"v", keys}})
    layout.add_with_bias(fmt::format("{}self_attn.{}_proj", prefix, name), {rows, hidden});
  layout.add(prefix + "self_attn.o_proj.weight", {hidden, queries});
  if (c.get<bool>("use_qk_norm", false))
    for (const char* name : {"q_norm", "k_norm"})
      layout.add(fmt::format("{}self_attn.{}.weight", prefix, name), {dim}, Fill::norm);
  if (dense) {
    layout.add_mlp(prefix + "mlp", hidden, c.get<int64_t>("intermediate_size"));
    return;
  }
  layout.add(prefix + "mlp.gate.weight", {experts, hidden});
  layout.add(prefix + "mlp.gate.e_score_correction_bias", {experts}, Fill::bias, at::kFloat);
  for (int64_t e = 0; e < experts; ++e)
    layout.add_mlp(fmt::format("{}mlp.experts.{}", prefix, e), hidden, inner);
  layout.add_mlp(prefix + "mlp.shared_experts", hidden, inner * c.get<int64_t>("n_shared_experts"));
}

// The draft layer is stored as one more layer, with its own embedding and head.
void add_draft(Layout& layout, const std::string& prefix, const Json& c) {
  const int64_t hidden = c.get<int64_t>("hidden_size"), vocabulary = c.get<int64_t>("vocab_size");
  add_layer(layout, prefix, c, /*dense=*/false);
  layout.add(prefix + "embed_tokens.weight", {vocabulary, hidden});
  layout.add(prefix + "enorm.weight", {hidden}, Fill::norm);
  layout.add(prefix + "hnorm.weight", {hidden}, Fill::norm);
  layout.add(prefix + "eh_proj.weight", {hidden, 2 * hidden});
  layout.add(prefix + "shared_head.norm.weight", {hidden}, Fill::norm);
  layout.add(prefix + "shared_head.head.weight", {vocabulary, hidden});
}

}  // namespace

void add_glm4_5(Layout& layout, const Json& c, const LayoutOptions& options) {
  const int64_t hidden = c.get<int64_t>("hidden_size"), vocabulary = c.get<int64_t>("vocab_size"),
                layers = c.get<int64_t>("num_hidden_layers");
  layout.add("model.embed_tokens.weight", {vocabulary, hidden});
  for (int64_t i = 0; i < layers; ++i)
    add_layer(layout, fmt::format("model.layers.{}.", i), c,
              i < c.get<int64_t>("first_k_dense_replace"));
  if (options.draft && c.get<int64_t>("num_nextn_predict_layers", 0) > 0)
    add_draft(layout, fmt::format("model.layers.{}.", layers), c);
  layout.add("model.norm.weight", {hidden}, Fill::norm);
  layout.add("lm_head.weight", {vocabulary, hidden});
}

}  // namespace quern::layouts
