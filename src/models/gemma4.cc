// Gemma 4's text model. Blocks of sliding and of full attention alternate, with heads of two sizes
// and two rotations; the last blocks read the keys and values of earlier ones; and a table gives
// every block its own embedding of each token. Members carry their Hugging Face names. After
// transformers' modeling_gemma4.py.

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "models/settings.h"
#include "models/vision.h"
#include "nn/nn.h"

namespace quern::models {
namespace {

using namespace nn;

constexpr const char* kFull = "full_attention";
constexpr const char* kSliding = "sliding_attention";

// What differs from block to block.
struct Layer {
  std::string type;
  int head_dim, kv_heads;
  int inner;
  int kv_layer;  // that makes the keys and values: itself, or an earlier one of its type
  bool shared;   // later blocks read the keys and values of this one
};

struct Config {
  explicit Config(const Json& c)
      : hidden(c.get<int>("hidden_size")),
        vocab(c.get<int>("vocab_size")),
        heads(c.get<int>("num_attention_heads")),
        window(c.get<int>("sliding_window", 512)),
        per_layer(c.get<int>("hidden_size_per_layer_input", 256)),
        pad(c.get<int>("pad_token_id", 0)),
        bos(c.get<int>("bos_token_id", 2)),
        both_ways(c.has("use_bidirectional_attention")),
        eps(c.get<double>("rms_norm_eps", 1e-6)),
        soft_cap(c.get<double>("final_logit_softcapping", 0)),
        key_is_value(c.get<bool>("attention_k_eq_v", false)),
        tied(c.get<bool>("tie_word_embeddings", true)) {
    refuse(c);
    const int count = c.get<int>("num_hidden_layers");
    const std::vector<std::string> types = types_of(c, count);
    const int owners = count - c.get<int>("num_kv_shared_layers", 0);
    const bool wide = c.get<bool>("use_double_wide_mlp", false);
    for (int i = 0; i < count; ++i) {
      Layer layer{.type = types[i],
                  .head_dim = 0,
                  .kv_heads = 0,
                  .inner = c.get<int>("intermediate_size") * (wide && i >= owners ? 2 : 1),
                  .kv_layer = i,
                  .shared = false};
      read_heads(c, i, layer);
      if (i >= owners) {
        layer.kv_layer = owners - 1;
        while (layer.kv_layer >= 0 && types[layer.kv_layer] != layer.type) --layer.kv_layer;
        if (layer.kv_layer < 0)
          fail("{}: layer {} shares keys and values, but none before it is of its type", c.path(),
               i);
        layers[layer.kv_layer].shared = true;
      }
      layers.push_back(layer);
    }
  }

  const Layer& at(int i) const { return layers.at(i); }

  int hidden, vocab, heads, window;
  int per_layer;  // width of a block's own embedding, 0: there are none
  int pad, bos;
  bool both_ways;                          // tokens of a picture see each other
  std::vector<int64_t> placeholders = {};  // ids in whose place features may stand
  double eps;
  double soft_cap;  // of the logits, 0: none
  bool key_is_value, tied;
  std::vector<Layer> layers;

 private:
  static std::vector<std::string> types_of(const Json& c, int count) {
    std::vector<std::string> types;
    if (c.has("layer_types")) {
      types = c.get<std::vector<std::string>>("layer_types");
    } else {
      for (int i = 0; i < count; ++i) types.emplace_back((i + 1) % 6 ? kSliding : kFull);
    }
    if (static_cast<int>(types.size()) != count)
      fail("{}: layer_types has {} entries for {} layers", c.path(), types.size(), count);
    for (const std::string& type : types) {
      if (type != kSliding && type != kFull)
        fail("{}: layer type \"{}\" is not known; known: {}, {}", c.path(), type, kSliding, kFull);
    }
    if (count > 0) types.back() = kFull;  // as transformers does, whatever the config says
    return types;
  }

  // Blocks of full attention have heads of their own, in Google's spelling or in that of
  // transformers 5.
  void read_heads(const Json& c, int i, Layer& layer) const {
    layer.head_dim = c.get<int>("head_dim", 256);
    layer.kv_heads = c.get<int>("num_key_value_heads");
    if (c.has("per_layer_config")) {
      const Json all = c.at("per_layer_config");
      for (const std::string& key : all.keys()) {
        if (key.find_first_not_of("0123456789") != std::string::npos || std::stoi(key) != i)
          continue;
        const Json own = all.at(key);
        for (const std::string& setting : own.keys()) {
          if (setting != "head_dim" && setting != "num_key_value_heads")
            fail("{}: \"{}\" is not implemented", own.path(), setting);
        }
        layer.head_dim = own.get<int>("head_dim", layer.head_dim);
        layer.kv_heads = own.get<int>("num_key_value_heads", layer.kv_heads);
      }
    } else if (layer.type == kFull) {
      layer.head_dim = c.get<int>("global_head_dim", 512);
      if (key_is_value) layer.kv_heads = c.get<int>("num_global_key_value_heads", layer.kv_heads);
    }
    if (layer.kv_heads <= 0 || heads % layer.kv_heads != 0) {
      fail("{}: {} heads do not divide by the {} key/value heads of layer {}", c.path(), heads,
           layer.kv_heads, i);
    }
  }

  void refuse(const Json& c) const {
    only(c, "hidden_activation", {"\"gelu_pytorch_tanh\""});
    only(c, "attention_bias", {"false"});
    only(c, "enable_moe_block", {"false"});
    // "vision" lets the tokens of a picture see each other and changes nothing without one.
    only(c, "use_bidirectional_attention", {"\"vision\""});
    if (per_layer > 0) only(c, "vocab_size_per_layer_input", {std::to_string(vocab)});
    refuse_unknown(c, {"attention_k_eq_v", "final_logit_softcapping", "hidden_activation",
                       "moe_intermediate_size", "expert_intermediate_size", "num_experts",
                       "num_attention_heads", "num_kv_shared_layers", "rms_norm_eps",
                       "rope_parameters", "sliding_window", "top_k_experts",
                       "use_bidirectional_attention", "use_double_wide_mlp"});
    if (window <= 0) fail("{}: sliding_window must be positive", c.path());
  }
};

class Attention {
 public:
  Attention(const Weights& w, const Config& c, const ops::Rope& rope, int index)
      : layer_(c.at(index)),
        q_proj_(projection(w, "q_proj", c, c.heads)),
        q_norm_(w.norm("q_norm", layer_.head_dim, c.eps)),
        v_norm_(Tensor(), c.eps),
        rope_(rope),
        shape_{.layer = layer_.kv_layer,
               .scale = 1.0,
               .window = layer_.type == kSliding ? c.window : 0,
               .shared = layer_.shared} {
    makes_keys_ = layer_.kv_layer == index;
    // Released checkpoints hold these matrices for all blocks. vLLM fuses them with q_proj, so they
    // are listed even where no pass reads them.
    if (makes_keys_ || w.has("k_proj.weight"))
      k_proj_ = projection(w, "k_proj", c, layer_.kv_heads);
    const bool own_values = !(c.key_is_value && layer_.type == kFull);
    if (own_values && (makes_keys_ || w.has("v_proj.weight")))
      v_proj_ = projection(w, "v_proj", c, layer_.kv_heads);
    if (makes_keys_ || w.has("k_norm.weight")) k_norm_ = w.norm("k_norm", layer_.head_dim, c.eps);
    o_proj_ = w.linear("o_proj", c.hidden, c.heads * layer_.head_dim);
  }

  Tensor operator()(const Tensor& x, Pass& pass) const {
    Tensor q = rope_(q_norm_(per_head(q_proj_, x)), pass.positions);
    if (!makes_keys_) return o_proj_(attend(q, shape_, pass).flatten(1));
    Tensor key = per_head(*k_proj_, x);
    Tensor v = v_norm_(v_proj_ ? per_head(*v_proj_, x) : key);
    Tensor k = rope_(k_norm_(key), pass.positions);
    return o_proj_(attend(q, k, v, shape_, pass).flatten(1));
  }

 private:
  Merged<1> projection(const Weights& w, const char* name, const Config& c, int heads) const {
    return w.merged<1>("qkv_proj", {name}, {heads * layer_.head_dim}, c.hidden);
  }
  Tensor per_head(const Merged<1>& projection, const Tensor& x) const {
    return projection(x)[0].unflatten(-1, {-1, layer_.head_dim});
  }

  Layer layer_;
  Merged<1> q_proj_;
  Norm q_norm_, k_norm_, v_norm_;
  std::optional<Merged<1>> k_proj_, v_proj_;
  Linear o_proj_;
  ops::Rope rope_;
  AttentionShape shape_;
  bool makes_keys_;
};

// down(gelu(gate x) * up x)
class GeluMlp {
 public:
  GeluMlp(const Weights& w, int hidden, int inner)
      : gate_up_(w.merged<2>("gate_up_proj", {"gate_proj", "up_proj"}, {inner, inner}, hidden)),
        down_proj_(w.linear("down_proj", hidden, inner)) {}

  Tensor operator()(const Tensor& x) const {
    auto [gate, up] = gate_up_(x);
    return down_proj_(ops::gelu_tanh_mul(gate, up));
  }

 private:
  Merged<2> gate_up_;
  Linear down_proj_;
};

// A block's own embedding of its tokens: a table's row, and a projection of what the stem made. The
// table and the projection of all blocks are one tensor each; a block takes its columns and rows.
class PerLayerInput {
 public:
  PerLayerInput(const Weights& text, const Weights& w, const Config& c, int index)
      : embed_tokens_per_layer_(
            text.embedding("embed_tokens_per_layer", c.vocab, all(c))
                .columns(static_cast<int64_t>(index) * c.per_layer, c.per_layer)),
        per_layer_model_projection_(text.linear_rows("per_layer_model_projection", all(c), c.hidden,
                                                     static_cast<int64_t>(index) * c.per_layer,
                                                     c.per_layer)),
        per_layer_projection_norm_(text.norm("per_layer_projection_norm", c.per_layer, c.eps)),
        per_layer_input_gate_(w.linear("per_layer_input_gate", c.per_layer, c.hidden)),
        per_layer_projection_(w.linear("per_layer_projection", c.hidden, c.per_layer)),
        post_per_layer_input_norm_(w.norm("post_per_layer_input_norm", c.hidden, c.eps)),
        context_scale_(1 / std::sqrt(static_cast<double>(c.hidden))),
        token_scale_(std::sqrt(static_cast<double>(c.per_layer))) {}

  // Rows of the table and of the projection.
  static int64_t all(const Config& c) {
    return static_cast<int64_t>(c.layers.size()) * c.per_layer;
  }

  Tensor operator()(const Tensor& x, const Pass& pass) const {
    Tensor context = per_layer_model_projection_(pass.shared.at("embedded")) * context_scale_;
    Tensor token = embed_tokens_per_layer_(pass.shared.at("tokens")) * token_scale_;
    Tensor input = (per_layer_projection_norm_(context) + token) * M_SQRT1_2;
    Tensor gated = ops::gelu_tanh_mul(per_layer_input_gate_(x), input);
    return post_per_layer_input_norm_(per_layer_projection_(gated));
  }

 private:
  Embedding embed_tokens_per_layer_;
  Linear per_layer_model_projection_;
  Norm per_layer_projection_norm_;
  Linear per_layer_input_gate_, per_layer_projection_;
  Norm post_per_layer_input_norm_;
  double context_scale_, token_scale_;
};

class Gemma4Block : public Block {
 public:
  Gemma4Block(const Weights& text, const Config& c, const ops::Rope& rope, int index)
      : Gemma4Block(text, text / "layers" / index, c, rope, index) {}

  Tensor operator()(const Tensor& input, Pass& pass) const override {
    Tensor x = input + post_attention_layernorm_(self_attn_(input_layernorm_(input), pass));
    x = x + post_feedforward_layernorm_(mlp_(pre_feedforward_layernorm_(x)));
    if (per_layer_input_) x = x + (*per_layer_input_)(x, pass);
    return x * layer_scalar_;
  }

 private:
  Gemma4Block(const Weights& text, const Weights& w, const Config& c, const ops::Rope& rope,
              int index)
      : input_layernorm_(w.norm("input_layernorm", c.hidden, c.eps)),
        self_attn_(w / "self_attn", c, rope, index),
        post_attention_layernorm_(w.norm("post_attention_layernorm", c.hidden, c.eps)),
        pre_feedforward_layernorm_(w.norm("pre_feedforward_layernorm", c.hidden, c.eps)),
        mlp_(w / "mlp", c.hidden, c.at(index).inner),
        post_feedforward_layernorm_(w.norm("post_feedforward_layernorm", c.hidden, c.eps)),
        layer_scalar_(w.tensor("layer_scalar", {1})) {
    if (c.per_layer > 0) per_layer_input_.emplace(text, w, c, index);
  }

  Norm input_layernorm_;
  Attention self_attn_;
  Norm post_attention_layernorm_, pre_feedforward_layernorm_;
  GeluMlp mlp_;
  Norm post_feedforward_layernorm_;
  std::optional<PerLayerInput> per_layer_input_;
  Tensor layer_scalar_;
};

class Gemma4Stem : public Stem {
 public:
  Gemma4Stem(const Weights& w, const Config& c)
      : embed_tokens_(w.embedding("embed_tokens", c.vocab, c.hidden)),
        scale_(std::sqrt(static_cast<double>(c.hidden))),
        placeholders_(c.placeholders),
        pad_(c.pad),
        both_ways_(c.both_ways),
        per_layer_(c.per_layer > 0) {
    if (per_layer_)
      w.linear("per_layer_model_projection", PerLayerInput::all(c), c.hidden,
               Role::stem);  // listed whole
  }

  Tensor operator()(const Tensor& tokens, Pass& pass) const override {
    if (both_ways_ && pass.media.tokens.defined())
      fail("pictures: use_bidirectional_attention \"vision\" is not implemented");
    // An id that stands for a picture or a sound counts as padding. Features are not scaled.
    Tensor ids = tokens;
    for (int64_t id : placeholders_) ids = ids.masked_fill(tokens == id, pad_);
    Tensor embedded = pass.media.in_place_of(embed_tokens_(ids) * scale_);
    if (per_layer_) {
      pass.shared.set("tokens", ids);
      pass.shared.set("embedded", embedded);
    }
    return embedded;
  }

 private:
  Embedding embed_tokens_;
  double scale_;
  std::vector<int64_t> placeholders_;
  int64_t pad_;
  bool both_ways_, per_layer_;
};

class Gemma4Head : public Head {
 public:
  Gemma4Head(const Weights& root, const Weights& text, const Config& c)
      : norm_(text.norm("norm", c.hidden, c.eps)),
        lm_head_(c.tied ? text.linear("embed_tokens", c.vocab, c.hidden, Role::lm_head)
                        : root.linear("lm_head", c.vocab, c.hidden, Role::lm_head)),
        soft_cap_(c.soft_cap) {}

  Tensor norm(const Tensor& hidden) const override { return norm_(hidden); }
  Tensor logits(const Tensor& normed) const override {
    Tensor logits = lm_head_(normed);
    return soft_cap_ > 0 ? ops::soft_cap(logits, soft_cap_) : logits;
  }

 private:
  Norm norm_;
  Linear lm_head_;
  double soft_cap_;
};

class Gemma4 : public Model {
 public:
  // config: all of config.json.
  Gemma4(const Json& config, const Json& text_config)
      : c_(text_config), sight_(gemma4_sight(config)) {
    for (const char* key : {"image_token_id", "video_token_id", "audio_token_id"})
      if (config.has(key)) c_.placeholders.push_back(config.get<int64_t>(key));
    JsonValue settings = text_config.value();
    if (!text_config.has("rope_parameters")) {
      settings["rope_parameters"] = {
          {kSliding, {{"rope_theta", 1e4}}},
          {kFull,
           {{"rope_type", "proportional"}, {"partial_rotary_factor", 0.25}, {"rope_theta", 1e6}}}};
    }
    for (const Layer& layer : c_.layers)
      ropes_.emplace_back(Json(settings, text_config.path()), layer.type, layer.head_dim);
  }

  int blocks() const override { return static_cast<int>(c_.layers.size()); }
  int64_t vocabulary() const override { return c_.vocab; }
  int64_t hidden() const override { return c_.hidden; }
  std::optional<int32_t> bos() const override { return c_.bos; }
  int64_t shared_width() const override {
    int64_t width = c_.per_layer > 0 ? c_.hidden + 2 : 0;  // an id is as large as two floats
    for (const Layer& layer : c_.layers)
      if (layer.shared) width += 2 * static_cast<int64_t>(layer.kv_heads) * layer.head_dim;
    return width;
  }
  std::string blocks_path(const Weights& root) const override { return text(root).path("layers"); }

  std::optional<prompt::ImageTokens> image_tokens() const override {
    return sight_ ? std::optional(sight_->tokens) : std::nullopt;
  }
  std::unique_ptr<Vision> vision(const Weights& root) const override {
    return sight_ ? sight_->tower(root) : nullptr;
  }
  std::unique_ptr<Stem> stem(const Weights& root) const override {
    return std::make_unique<Gemma4Stem>(text(root), c_);
  }
  std::unique_ptr<Block> block(const Weights& root, int i) const override {
    return std::make_unique<Gemma4Block>(text(root), c_, ropes_.at(i), i);
  }
  std::unique_ptr<Head> head(const Weights& root) const override {
    return std::make_unique<Gemma4Head>(root, text(root), c_);
  }
  std::unique_ptr<Draft> draft(const Weights&) const override { return nullptr; }
  std::vector<std::string> unused(const Weights& root) const override {
    std::vector<std::string> names;
    for (int i = 0; i < blocks(); ++i) {
      if (c_.at(i).kv_layer == i) continue;
      const Weights attention = text(root) / "layers" / i / "self_attn";
      for (const char* name : {"k_proj.weight", "v_proj.weight", "k_norm.weight"})
        if (attention.has(name)) names.push_back(attention.path(name));
    }
    return names;
  }

 private:
  // A text-only checkpoint has its tensors right below "model".
  static Weights text(const Weights& root) {
    const Weights nested = root / "model" / "language_model";
    return nested.has("embed_tokens.weight") ? nested : root / "model";
  }

  Config c_;
  std::vector<ops::Rope> ropes_;  // of each block
  std::optional<Sight> sight_;
};

}  // namespace

std::unique_ptr<Model> make_gemma4(const Json& config) {
  return std::make_unique<Gemma4>(config,
                                  config.has("text_config") ? config.at("text_config") : config);
}

}  // namespace quern::models
