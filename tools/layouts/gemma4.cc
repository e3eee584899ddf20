// Gemma-4-E4B-it: text model with embeddings for each layer, vision tower, audio tower.
#include <fmt/format.h>

#include "layouts/layout.h"

namespace quern::layouts {
namespace {

// A linear of the towers has bounds for its input and output.
void add_clipped(Layout& layout, const std::string& name, std::vector<int64_t> shape) {
  layout.add(name + ".linear.weight", std::move(shape));
  for (const char* side : {"input", "output"}) {
    layout.add(fmt::format("{}.{}_min", name, side), {}, Fill::low);
    layout.add(fmt::format("{}.{}_max", name, side), {}, Fill::high);
  }
}

void add_text_layer(Layout& layout, const std::string& prefix, const Json& c, bool full) {
  const int64_t hidden = c.get<int64_t>("hidden_size"), inner = c.get<int64_t>("intermediate_size"),
                per_layer = c.get<int64_t>("hidden_size_per_layer_input"),
                dim = c.get<int64_t>(full ? "global_head_dim" : "head_dim"),
                queries = c.get<int64_t>("num_attention_heads") * dim,
                keys = c.get<int64_t>("num_key_value_heads") * dim;
  for (const char* norm : {"input_layernorm", "post_attention_layernorm",
                           "pre_feedforward_layernorm", "post_feedforward_layernorm"})
    layout.add(fmt::format("{}{}.weight", prefix, norm), {hidden}, Fill::norm);
  layout.add(prefix + "self_attn.q_proj.weight", {queries, hidden});
  layout.add(prefix + "self_attn.k_proj.weight", {keys, hidden});
  layout.add(prefix + "self_attn.v_proj.weight", {keys, hidden});
  layout.add(prefix + "self_attn.o_proj.weight", {hidden, queries});
  layout.add(prefix + "self_attn.q_norm.weight", {dim}, Fill::norm);
  layout.add(prefix + "self_attn.k_norm.weight", {dim}, Fill::norm);
  layout.add_mlp(prefix + "mlp", hidden, inner);
  layout.add(prefix + "per_layer_input_gate.weight", {per_layer, hidden});
  layout.add(prefix + "per_layer_projection.weight", {hidden, per_layer});
  layout.add(prefix + "post_per_layer_input_norm.weight", {hidden}, Fill::norm);
  layout.add(prefix + "layer_scalar", {1}, Fill::one);
}

void add_text(Layout& layout, const Json& c) {
  const std::string prefix = "model.language_model.";
  const int64_t hidden = c.get<int64_t>("hidden_size"), vocabulary = c.get<int64_t>("vocab_size"),
                per_layer = c.get<int64_t>("hidden_size_per_layer_input");
  const auto types = c.get<std::vector<std::string>>("layer_types");
  const int64_t all = per_layer * static_cast<int64_t>(types.size());
  layout.add(prefix + "embed_tokens.weight", {vocabulary, hidden});
  layout.add(prefix + "embed_tokens_per_layer.weight",
             {c.get<int64_t>("vocab_size_per_layer_input"), all});
  layout.add(prefix + "per_layer_model_projection.weight", {all, hidden});
  layout.add(prefix + "per_layer_projection_norm.weight", {per_layer}, Fill::norm);
  for (size_t i = 0; i < types.size(); ++i)
    add_text_layer(layout, fmt::format("{}layers.{}.", prefix, i), c, types[i] == "full_attention");
  layout.add(prefix + "norm.weight", {hidden}, Fill::norm);
}

void add_vision(Layout& layout, const Json& c) {
  const int64_t hidden = c.get<int64_t>("hidden_size"), inner = c.get<int64_t>("intermediate_size"),
                dim = c.get<int64_t>("head_dim"),
                width = c.get<int64_t>("num_attention_heads") * dim,
                patch = c.get<int64_t>("patch_size");
  const std::string prefix = "model.vision_tower.";
  layout.add(prefix + "patch_embedder.input_proj.weight", {hidden, 3 * patch * patch});
  layout.add(prefix + "patch_embedder.position_embedding_table",
             {2, c.get<int64_t>("position_embedding_size"), hidden});
  for (int64_t i = 0; i < c.get<int64_t>("num_hidden_layers"); ++i) {
    const std::string layer = fmt::format("{}encoder.layers.{}.", prefix, i);
    for (const char* norm : {"input_layernorm", "post_attention_layernorm",
                             "pre_feedforward_layernorm", "post_feedforward_layernorm"})
      layout.add(fmt::format("{}{}.weight", layer, norm), {hidden}, Fill::norm);
    for (const char* name : {"q_proj", "k_proj", "v_proj"})
      add_clipped(layout, layer + "self_attn." + name, {width, hidden});
    add_clipped(layout, layer + "self_attn.o_proj", {hidden, width});
    layout.add(layer + "self_attn.q_norm.weight", {dim}, Fill::norm);
    layout.add(layer + "self_attn.k_norm.weight", {dim}, Fill::norm);
    add_clipped(layout, layer + "mlp.gate_proj", {inner, hidden});
    add_clipped(layout, layer + "mlp.up_proj", {inner, hidden});
    add_clipped(layout, layer + "mlp.down_proj", {hidden, inner});
  }
}

void add_audio_layer(Layout& layout, const std::string& prefix, const Json& c) {
  const int64_t hidden = c.get<int64_t>("hidden_size");
  for (const char* half : {"feed_forward1.", "feed_forward2."}) {
    layout.add(prefix + half + "pre_layer_norm.weight", {hidden}, Fill::norm);
    layout.add(prefix + half + "post_layer_norm.weight", {hidden}, Fill::norm);
    add_clipped(layout, prefix + half + "ffw_layer_1", {4 * hidden, hidden});
    add_clipped(layout, prefix + half + "ffw_layer_2", {hidden, 4 * hidden});
  }
  for (const char* name : {"q_proj", "k_proj", "v_proj", "post"})
    add_clipped(layout, prefix + "self_attn." + name, {hidden, hidden});
  layout.add(prefix + "self_attn.relative_k_proj.weight", {hidden, hidden});
  layout.add(prefix + "self_attn.per_dim_scale", {hidden / c.get<int64_t>("num_attention_heads")},
             Fill::bias);
  layout.add(prefix + "lconv1d.pre_layer_norm.weight", {hidden}, Fill::norm);
  layout.add(prefix + "lconv1d.conv_norm.weight", {hidden}, Fill::norm);
  add_clipped(layout, prefix + "lconv1d.linear_start", {2 * hidden, hidden});
  add_clipped(layout, prefix + "lconv1d.linear_end", {hidden, hidden});
  layout.add(prefix + "lconv1d.depthwise_conv1d.weight",
             {hidden, 1, c.get<int64_t>("conv_kernel_size")}, Fill::convolution);
  for (const char* norm : {"norm_pre_attn", "norm_post_attn", "norm_out"})
    layout.add(fmt::format("{}{}.weight", prefix, norm), {hidden}, Fill::norm);
}

void add_audio(Layout& layout, const Json& c) {
  const int64_t hidden = c.get<int64_t>("hidden_size"), out = c.get<int64_t>("output_proj_dims");
  const auto channels = c.get<std::vector<int64_t>>("subsampling_conv_channels");
  const std::string prefix = "model.audio_tower.", sub = prefix + "subsample_conv_projection.";
  layout.add(sub + "layer0.conv.weight", {channels[0], 1, 3, 3}, Fill::convolution);
  layout.add(sub + "layer0.norm.weight", {channels[0]}, Fill::norm);
  layout.add(sub + "layer1.conv.weight", {channels[1], channels[0], 3, 3}, Fill::convolution);
  layout.add(sub + "layer1.norm.weight", {channels[1]}, Fill::norm);
  // Two convolutions with stride 2 divide the mel bins, as many as channels[0], by four.
  layout.add(sub + "input_proj_linear.weight", {hidden, channels[0] / 4 * channels[1]});
  for (int64_t i = 0; i < c.get<int64_t>("num_hidden_layers"); ++i)
    add_audio_layer(layout, fmt::format("{}layers.{}.", prefix, i), c);
  layout.add_with_bias(prefix + "output_proj", {out, hidden});
}

}  // namespace

void add_gemma4(Layout& layout, const Json& config) {
  const Json text = config.at("text_config");
  const int64_t hidden = text.get<int64_t>("hidden_size");
  add_text(layout, text);
  if (config.has("vision_config")) {
    const Json vision = config.at("vision_config");
    add_vision(layout, vision);
    layout.add("model.embed_vision.embedding_projection.weight",
               {hidden, vision.get<int64_t>("hidden_size")});
  }
  if (config.has("audio_config")) {
    const Json audio = config.at("audio_config");
    add_audio(layout, audio);
    layout.add("model.embed_audio.embedding_projection.weight",
               {hidden, audio.get<int64_t>("output_proj_dims")});
  }
}

}  // namespace quern::layouts
