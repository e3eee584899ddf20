// sarvam-30b, published entirely in fp32.
#include <fmt/format.h>

#include "layouts/layout.h"

namespace quern::layouts {

void add_sarvam(Layout& layout, const Json& c) {
  const int64_t hidden = c.get<int64_t>("hidden_size"), vocabulary = c.get<int64_t>("vocab_size"),
                dim = c.get<int64_t>("head_dim"), heads = c.get<int64_t>("num_attention_heads"),
                kv_heads = c.get<int64_t>("num_key_value_heads"),
                inner = c.get<int64_t>("moe_intermediate_size"),
                experts = c.get<int64_t>("num_experts");
  // The matrices of fixtures are in bf16.
  const bool single = c.get<std::string>("torch_dtype", "float32") == "float32";
  const DType dtype = single ? at::kFloat : at::kBFloat16;
  auto add = [&](const std::string& name, std::vector<int64_t> shape, Fill fill = Fill::matrix) {
    layout.add(name, std::move(shape), fill, dtype);
  };
  add("model.word_embeddings.weight", {vocabulary, hidden});
  for (int64_t i = 0; i < c.get<int64_t>("num_hidden_layers"); ++i) {
    const std::string prefix = fmt::format("model.layers.{}.", i);
    add(prefix + "input_layernorm.weight", {hidden}, Fill::norm);
    add(prefix + "attention.query_key_value.weight", {(heads + 2 * kv_heads) * dim, hidden});
    add(prefix + "attention.query_layernorm.weight", {dim}, Fill::norm);
    add(prefix + "attention.key_layernorm.weight", {dim}, Fill::norm);
    add(prefix + "attention.dense.weight", {hidden, heads * dim});
    add(prefix + "post_attention_layernorm.weight", {hidden}, Fill::norm);
    if (i < c.get<int64_t>("first_k_dense_replace")) {
      layout.add_mlp(prefix + "mlp", hidden, c.get<int64_t>("intermediate_size"), dtype);
      continue;
    }
    layout.add(prefix + "mlp.gate.weight", {experts, hidden}, Fill::matrix, at::kFloat);
    layout.add(prefix + "mlp.gate.expert_bias", {experts}, Fill::bias, at::kFloat);
    for (int64_t e = 0; e < experts; ++e)
      layout.add_mlp(fmt::format("{}mlp.experts.{}", prefix, e), hidden, inner, dtype);
    layout.add_mlp(prefix + "mlp.shared_experts", hidden,
                   inner * c.get<int64_t>("num_shared_experts"), dtype);
  }
  add("model.norm.weight", {hidden}, Fill::norm);
  add("lm_head.weight", {vocabulary, hidden});
}

}  // namespace quern::layouts
