// Gemma 4's text model. A block has four norms. There are two kinds of blocks (gemma4_layers.h);
// the last blocks read the keys and values of earlier ones. A table gives every block its own
// embedding of each token. One model size has experts next to the dense MLP. Members carry their
// Hugging Face names. After transformers' modeling_gemma4.py.

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "models/gemma4_layers.h"
#include "models/vision.h"
#include "nn/ends.h"
#include "nn/nn.h"

namespace quern::models {
namespace {

using namespace nn;

// Defaults after transformers' configuration_gemma4.py.
struct Config {
  Config(const Settings& c, bool tied)
      : hidden(c.get("hidden_size", 2304)),
        vocab(c.get("vocab_size", 262144)),
        heads(c.get("num_attention_heads", 8)),
        per_layer(c.get("hidden_size_per_layer_input", 256)),
        pad(c.get("pad_token_id", 0)),
        bos(c.get("bos_token_id", 2)),
        both_ways(c.has("use_bidirectional_attention")),
        eps(c.get("rms_norm_eps", 1e-6)),
        soft_cap(c.get("final_logit_softcapping", 0.0)),
        tied(tied),
        layers(gemma4_layers(c, heads)) {
    c.only("hidden_activation", {"\"gelu_pytorch_tanh\""});
    c.only("attention_bias", {"false"});
    // "vision" lets the tokens of a picture see each other; it has no effect on text.
    c.only("use_bidirectional_attention", {"\"vision\""});
    if (const int table = c.get("vocab_size_per_layer_input", 262144);
        per_layer > 0 && table != vocab)
      fail("{}: vocab_size_per_layer_input {} with vocab_size {} is not implemented", c.path(),
           table, vocab);
    if (c.get("enable_moe_block", false)) {
      experts = c.get("num_experts", 0);
      experts_per_token = c.get("top_k_experts", 0);
      expert_inner = c.get("moe_intermediate_size", 0);
      check_experts_per_token(c.path(), "top_k_experts", experts_per_token, experts);
    }
    for (const char* unused : {"num_experts", "top_k_experts", "moe_intermediate_size"})
      c.has(unused);  // without enable_moe_block
    c.refuse_unread();
  }

  const Gemma4Layer& at(int i) const { return layers.at(i); }

  int hidden, vocab, heads;
  int per_layer;  // width of a block's own embedding; 0: none
  int pad, bos;
  bool both_ways;                          // tokens of a picture see each other
  std::vector<int64_t> placeholders = {};  // ids that features may replace
  double eps;
  double soft_cap;  // of the logits; 0: none
  bool tied;
  std::vector<Gemma4Layer> layers;
  int experts = 0, experts_per_token = 0, expert_inner = 0;  // 0: blocks have none
};

class Attention {
 public:
  Attention(const Weights& w, const Config& c, int index)
      : layer_(c.at(index)),
        v_norm_(Tensor(), c.eps),
        shape_{.layer = layer_.kv_layer,
               .scale = 1.0,
               .window = layer_.window,
               .shared = layer_.shared},
        makes_keys_(layer_.kv_layer == index) {
    const Axis keys = Axis::heads(layer_.kv_heads, layer_.head_dim);
    std::vector<Part> read = {{"q_proj", Axis::heads(c.heads, layer_.head_dim)}}, unread;
    // Released checkpoints have these matrices for all blocks. vLLM fuses them with q_proj, so they
    // are listed even for blocks that do not read them.
    std::vector<Part>& of_keys = makes_keys_ ? read : unread;
    of_keys.push_back({"k_proj", keys});
    if (!layer_.key_is_value) of_keys.push_back({"v_proj", keys});
    std::vector<std::string> absent;
    for (const Part& part : unread)
      if (!w.has_linear(part.name)) absent.push_back(part.name);
    if (layer_.key_is_value) absent.push_back("v_proj");
    qkv_ = w.merged("qkv_proj", read, c.hidden, Bias::none, absent);
    q_norm_ = w.norm("q_norm", layer_.head_dim, c.eps);
    for (const Part& part : unread)
      if (w.has_linear(part.name)) w.unread("qkv_proj", part, c.hidden);
    if (makes_keys_ || w.has("k_norm.weight")) k_norm_ = w.norm("k_norm", layer_.head_dim, c.eps);
    o_proj_ = w.closing("o_proj", c.hidden, Axis::heads(c.heads, layer_.head_dim));
  }

  Tensor operator()(const Tensor& x, Pass& pass) const {
    const std::vector<Tensor> qkv = qkv_.parts(x);
    auto per_head = [&](const Tensor& t) { return t.unflatten(-1, {-1, layer_.head_dim}); };
    Tensor q = layer_.rope(q_norm_(per_head(qkv[0])), pass.positions);
    if (!makes_keys_) return o_proj_(attend(q, shape_, pass).flatten(1));
    Tensor key = per_head(qkv[1]);
    Tensor v = v_norm_(per_head(qkv.back()));  // without v_proj, the values are the keys
    Tensor k = layer_.rope(k_norm_(key), pass.positions);
    return o_proj_(attend(q, k, v, shape_, pass).flatten(1));
  }

 private:
  Gemma4Layer layer_;
  Linear qkv_;
  Norm q_norm_, k_norm_, v_norm_;
  Linear o_proj_;
  AttentionShape shape_;
  bool makes_keys_;
};

// Experts next to the dense MLP. The experts and the router read the input of the MLP's norm.
class SparseMlp {
 public:
  SparseMlp(const Weights& w, const Config& c)
      : router_norm_((w / "router").tensor("scale", {c.hidden}) / std::sqrt(c.hidden), c.eps),
        proj_((w / "router").linear("proj", c.experts, c.hidden, Role::router)),
        per_expert_scale_((w / "router").tensor("per_expert_scale", {c.experts})),
        pre_feedforward_layernorm_2_(
            w.norm("pre_feedforward_layernorm_2", c.hidden, c.eps, {"experts"})),
        experts_(w.experts("experts", c.experts, c.hidden, c.expert_inner, Activation::gelu_tanh)),
        post_feedforward_layernorm_1_(w.norm("post_feedforward_layernorm_1", c.hidden, c.eps)),
        post_feedforward_layernorm_2_(w.norm("post_feedforward_layernorm_2", c.hidden, c.eps)),
        experts_per_token_(c.experts_per_token) {}

  // The sum of `dense`, the dense MLP's output for x, and the experts' output for x.
  Tensor operator()(const Tensor& x, const Tensor& dense, Pass& pass) const {
    ops::Routing routing = ops::softmax_top_k(proj_(router_norm_(x)), experts_per_token_);
    routing.weights = routing.weights * per_expert_scale_.index({routing.experts});
    Tensor sparse = experts_(pre_feedforward_layernorm_2_(x), routing, pass.pairs_per_expert);
    return post_feedforward_layernorm_1_(dense) + post_feedforward_layernorm_2_(sparse);
  }

 private:
  Norm router_norm_;
  Linear proj_;
  Tensor per_expert_scale_;
  Norm pre_feedforward_layernorm_2_;
  Experts experts_;
  Norm post_feedforward_layernorm_1_, post_feedforward_layernorm_2_;
  int experts_per_token_;
};

// A block's own embedding of its tokens: a row of a table plus a projection of the stem's output.
// The table and the projection of all blocks are one tensor each; a block takes its columns and
// rows.
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

  // Width of the table and rows of the projection, for all blocks.
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
  // `text` is the place of the text model, `w` that of this block.
  Gemma4Block(const Weights& text, const Weights& w, const Config& c, int index)
      : input_layernorm_(w.norm("input_layernorm", c.hidden, c.eps, {"self_attn.qkv_proj"})),
        self_attn_(w / "self_attn", c, index),
        post_attention_layernorm_(w.norm("post_attention_layernorm", c.hidden, c.eps)),
        pre_feedforward_layernorm_(
            w.norm("pre_feedforward_layernorm", c.hidden, c.eps, {"mlp.gate_up_proj"})),
        mlp_(w.mlp("mlp", c.hidden, c.at(index).inner, Activation::gelu_tanh)),
        post_feedforward_layernorm_(w.norm("post_feedforward_layernorm", c.hidden, c.eps)),
        layer_scalar_(w.tensor("layer_scalar", {1})) {
    if (c.experts > 0) sparse_mlp_.emplace(w, c);
    if (c.per_layer > 0) per_layer_input_.emplace(text, w, c, index);
    w.expect_all_taken();
  }

  Tensor mixed(const Tensor& input, Pass& pass) const override {
    return input + post_attention_layernorm_(self_attn_(input_layernorm_(input), pass));
  }
  Tensor fed_forward(const Tensor& input, Pass& pass) const override {
    Tensor x = input, fed = mlp_(pre_feedforward_layernorm_(x));
    if (sparse_mlp_) fed = (*sparse_mlp_)(x, fed, pass);
    x = x + post_feedforward_layernorm_(fed);
    if (per_layer_input_) x = x + (*per_layer_input_)(x, pass);
    return x * layer_scalar_;
  }

 private:
  Norm input_layernorm_;
  Attention self_attn_;
  Norm post_attention_layernorm_, pre_feedforward_layernorm_;
  Mlp mlp_;
  std::optional<SparseMlp> sparse_mlp_;
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
               Role::stem);  // listed as a whole
  }

  Tensor operator()(const Tensor& tokens, Pass& pass) const override {
    if (both_ways_ && pass.media.tokens.defined())
      fail("pictures: use_bidirectional_attention \"vision\" is not implemented");
    // The id of a picture or sound token counts as padding. Features are not scaled.
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
        lm_head_(lm_head(root, text, c.tied, c.vocab, c.hidden)),
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
  explicit Gemma4(const Json& config)
      : c_(Settings(text_config(config)), config.get<bool>("tie_word_embeddings", true)),
        sight_(gemma4_sight(config)) {
    if (!config.has("text_config")) return;
    c_.placeholders = {config.get<int>("image_token_id", 258880),
                       config.get<int>("video_token_id", 258884),
                       config.get<int>("audio_token_id", 258881)};
  }

  int blocks() const override { return static_cast<int>(c_.layers.size()); }
  int64_t experts_per_token() const override { return c_.experts_per_token; }
  int64_t vocabulary() const override { return c_.vocab; }
  int64_t hidden() const override { return c_.hidden; }
  std::optional<int32_t> bos() const override { return c_.bos; }
  int64_t shared_width() const override {
    int64_t width = c_.per_layer > 0 ? c_.hidden + 2 : 0;  // an id takes the space of two floats
    for (const Gemma4Layer& layer : c_.layers)
      if (layer.shared) width += 2 * static_cast<int64_t>(layer.kv_heads) * layer.head_dim;
    return width;
  }
  std::string blocks_path(const Weights& root) const override {
    return text_model(root).path("layers");
  }

  std::optional<prompt::ImageTokens> image_tokens() const override {
    return sight_ ? std::optional(sight_->tokens) : std::nullopt;
  }
  std::unique_ptr<Vision> vision(const Weights& root) const override {
    return sight_ ? sight_->tower(root) : nullptr;
  }
  std::unique_ptr<Stem> stem(const Weights& root) const override {
    expect_last_block(text_model(root) / "layers", blocks());
    return std::make_unique<Gemma4Stem>(text_model(root), c_);
  }
  std::unique_ptr<Block> block(const Weights& root, int i) const override {
    const Weights text = text_model(root);
    return std::make_unique<Gemma4Block>(text, text / "layers" / i, c_, i);
  }
  std::unique_ptr<Head> head(const Weights& root) const override {
    return std::make_unique<Gemma4Head>(root, text_model(root), c_);
  }
  std::unique_ptr<Draft> draft(const Weights&) const override { return nullptr; }
  std::vector<std::string> unused(const Weights& root) const override {
    std::vector<std::string> names;
    for (int i = 0; i < blocks(); ++i) {
      if (c_.at(i).kv_layer == i) continue;
      const Weights attention = text_model(root) / "layers" / i / "self_attn";
      for (const char* name : {"k_proj.weight", "v_proj.weight", "k_norm.weight"})
        if (attention.has(name)) names.push_back(attention.path(name));
    }
    return names;
  }

 private:
  Config c_;
  std::optional<Sight> sight_;
};

}  // namespace

std::unique_ptr<Model> make_gemma4(const Json& config) { return std::make_unique<Gemma4>(config); }

}  // namespace quern::models
