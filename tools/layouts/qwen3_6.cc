// Qwen3.6-35B-A3B: text model, vision tower and draft layer.
#include <fmt/format.h>

#include "layouts/layout.h"

namespace quern::layouts {
namespace {

void add_experts(Layout& layout, const std::string& prefix, const Json& text, bool split) {
  const int64_t experts = text.get<int64_t>("num_experts"),
                hidden = text.get<int64_t>("hidden_size"),
                width = text.get<int64_t>("moe_intermediate_size");
  if (!split) {
    layout.add(prefix + "gate_up_proj", {experts, 2 * width, hidden});
    layout.add(prefix + "down_proj", {experts, hidden, width});
    return;
  }
  for (int64_t i = 0; i < experts; ++i) {
    layout.add_mlp(fmt::format("{}{}", prefix, i), hidden, width);
  }
}

void add_delta_net(Layout& layout, const std::string& prefix, const Json& text) {
  const int64_t hidden = text.get<int64_t>("hidden_size"),
                value_heads = text.get<int64_t>("linear_num_value_heads"),
                keys = text.get<int64_t>("linear_num_key_heads") *
                       text.get<int64_t>("linear_key_head_dim"),
                value_dim = text.get<int64_t>("linear_value_head_dim"),
                values = value_heads * value_dim;
  layout.add(prefix + "in_proj_qkv.weight", {2 * keys + values, hidden});
  layout.add(prefix + "in_proj_z.weight", {values, hidden});
  layout.add(prefix + "in_proj_b.weight", {value_heads, hidden});
  layout.add(prefix + "in_proj_a.weight", {value_heads, hidden});
  layout.add(prefix + "conv1d.weight",
             {2 * keys + values, 1, text.get<int64_t>("linear_conv_kernel_dim")},
             Fill::convolution);
  layout.add(prefix + "A_log", {value_heads}, Fill::decay);
  layout.add(prefix + "dt_bias", {value_heads}, Fill::step);
  layout.add(prefix + "norm.weight", {value_dim}, Fill::norm);
  layout.add(prefix + "out_proj.weight", {hidden, values});
}

void add_attention(Layout& layout, const std::string& prefix, const Json& text) {
  const int64_t hidden = text.get<int64_t>("hidden_size"), dim = text.get<int64_t>("head_dim"),
                queries = text.get<int64_t>("num_attention_heads") * dim,
                keys = text.get<int64_t>("num_key_value_heads") * dim;
  layout.add(prefix + "q_proj.weight", {2 * queries, hidden});  // queries and their gates
  layout.add(prefix + "k_proj.weight", {keys, hidden});
  layout.add(prefix + "v_proj.weight", {keys, hidden});
  layout.add(prefix + "o_proj.weight", {hidden, queries});
  layout.add(prefix + "q_norm.weight", {dim}, Fill::norm_minus_one);
  layout.add(prefix + "k_norm.weight", {dim}, Fill::norm_minus_one);
}

void add_layer(Layout& layout, const std::string& prefix, const Json& text, bool full_attention,
               bool split) {
  const int64_t hidden = text.get<int64_t>("hidden_size"),
                shared = text.get<int64_t>("shared_expert_intermediate_size");
  layout.add(prefix + "input_layernorm.weight", {hidden}, Fill::norm_minus_one);
  if (full_attention) {
    add_attention(layout, prefix + "self_attn.", text);
  } else {
    add_delta_net(layout, prefix + "linear_attn.", text);
  }
  layout.add(prefix + "post_attention_layernorm.weight", {hidden}, Fill::norm_minus_one);
  layout.add(prefix + "mlp.gate.weight", {text.get<int64_t>("num_experts"), hidden});
  add_experts(layout, prefix + "mlp.experts.", text, split);
  layout.add_mlp(prefix + "mlp.shared_expert", hidden, shared);
  layout.add(prefix + "mlp.shared_expert_gate.weight", {1, hidden});
}

void add_vision(Layout& layout, const Json& vision) {
  const int64_t hidden = vision.get<int64_t>("hidden_size"),
                inner = vision.get<int64_t>("intermediate_size"),
                patch = vision.get<int64_t>("patch_size"),
                merge = vision.get<int64_t>("spatial_merge_size"), merged = hidden * merge * merge;
  const std::string prefix = "model.visual.";
  layout.add_with_bias(prefix + "patch_embed.proj",
                       {hidden, vision.get<int64_t>("in_channels"),
                        vision.get<int64_t>("temporal_patch_size"), patch, patch});
  layout.add(prefix + "pos_embed.weight", {vision.get<int64_t>("num_position_embeddings"), hidden});
  for (int64_t i = 0; i < vision.get<int64_t>("depth"); ++i) {
    const std::string block = fmt::format("{}blocks.{}.", prefix, i);
    layout.add_with_bias(block + "norm1", {hidden}, Fill::norm);
    layout.add_with_bias(block + "norm2", {hidden}, Fill::norm);
    layout.add_with_bias(block + "attn.qkv", {3 * hidden, hidden});
    layout.add_with_bias(block + "attn.proj", {hidden, hidden});
    layout.add_with_bias(block + "mlp.linear_fc1", {inner, hidden});
    layout.add_with_bias(block + "mlp.linear_fc2", {hidden, inner});
  }
  layout.add_with_bias(prefix + "merger.norm", {hidden}, Fill::norm);
  layout.add_with_bias(prefix + "merger.linear_fc1", {merged, merged});
  layout.add_with_bias(prefix + "merger.linear_fc2",
                       {vision.get<int64_t>("out_hidden_size"), merged});
}

void add_draft(Layout& layout, const Json& text, bool split) {
  const int64_t hidden = text.get<int64_t>("hidden_size");
  layout.add("mtp.fc.weight", {hidden, 2 * hidden});
  for (const char* norm : {"norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden"})
    layout.add(fmt::format("mtp.{}.weight", norm), {hidden}, Fill::norm_minus_one);
  add_layer(layout, "mtp.layers.0.", text, /*full_attention=*/true, split);
}

}  // namespace

void add_qwen3_6(Layout& layout, const Json& config, const LayoutOptions& options) {
  const bool split = options.split_experts;
  const Json text = config.at("text_config");
  const int64_t hidden = text.get<int64_t>("hidden_size"),
                vocabulary = text.get<int64_t>("vocab_size");
  layout.add("model.language_model.embed_tokens.weight", {vocabulary, hidden});
  const auto types = text.get<std::vector<std::string>>("layer_types");
  for (size_t i = 0; i < types.size(); ++i)
    add_layer(layout, fmt::format("model.language_model.layers.{}.", i), text,
              types[i] == "full_attention", split);
  layout.add("model.language_model.norm.weight", {hidden}, Fill::norm_minus_one);
  layout.add("lm_head.weight", {vocabulary, hidden});
  if (config.has("vision_config")) add_vision(layout, config.at("vision_config"));
  if (text.get<int64_t>("mtp_num_hidden_layers", 0) > 0) add_draft(layout, text, split);
}

}  // namespace quern::layouts
