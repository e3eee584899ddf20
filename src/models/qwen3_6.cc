// Qwen3.6 mixture-of-experts text model: three gated-delta-net blocks, then one gated-attention
// block, repeated. Members carry their Hugging Face names, so a tensor name found in an error
// message can be searched for here. After transformers' modeling_qwen3_5_moe.py; the draft layer
// after vLLM's qwen3_5_mtp.py.

#include <cmath>

#include "base/error.h"
#include "models/vision.h"
#include "nn/ends.h"
#include "nn/nn.h"

namespace quern::models {
namespace {

using namespace nn;

struct Config {
  explicit Config(const Json& c)
      : layers(c.get<int>("num_hidden_layers")),
        hidden(c.get<int>("hidden_size")),
        vocab(c.get<int>("vocab_size")),
        heads(c.get<int>("num_attention_heads")),
        kv_heads(c.get<int>("num_key_value_heads")),
        head_dim(c.get<int>("head_dim")),
        key_heads(c.get<int>("linear_num_key_heads")),
        key_dim(c.get<int>("linear_key_head_dim")),
        value_heads(c.get<int>("linear_num_value_heads")),
        value_dim(c.get<int>("linear_value_head_dim")),
        taps(c.get<int>("linear_conv_kernel_dim")),
        experts(c.get<int>("num_experts")),
        experts_per_token(c.get<int>("num_experts_per_tok")),
        expert_inner(c.get<int>("moe_intermediate_size")),
        shared_inner(c.get<int>("shared_expert_intermediate_size")),
        eps(c.get<double>("rms_norm_eps")),
        tied(c.get<bool>("tie_word_embeddings", false)) {
    if (c.has("layer_types")) {
      layer_types = c.get<std::vector<std::string>>("layer_types");
    } else {
      const int interval = c.get<int>("full_attention_interval", 4);
      for (int i = 0; i < layers; ++i)
        layer_types.push_back((i + 1) % interval ? "linear_attention" : "full_attention");
    }
    refuse_unknown(c);
  }

  // A setting that changes the arithmetic and is not implemented must not be passed over.
  void refuse_unknown(const Json& c) const {
    if (static_cast<int>(layer_types.size()) != layers) {
      fail("{}: layer_types has {} entries for {} layers", c.path(), layer_types.size(), layers);
    }
    for (const std::string& type : layer_types) {
      if (type != "linear_attention" && type != "full_attention") {
        fail("{}: layer type \"{}\" is not known; known: linear_attention, full_attention",
             c.path(), type);
      }
    }
    const auto act = c.get<std::string>("hidden_act", "silu");
    if (act != "silu")
      fail("{}: hidden_act \"{}\" is not implemented; only silu is", c.path(), act);
    if (!c.get<bool>("attn_output_gate", true))
      fail("{}: attn_output_gate false is not implemented", c.path());
    if (c.get<bool>("attention_bias", false))
      fail("{}: attention_bias true is not implemented", c.path());
    if (c.has("mlp_only_layers") && c.at("mlp_only_layers").size() > 0) {
      fail("{}: mlp_only_layers is not implemented", c.path());
    }
    if (value_heads % key_heads != 0 || heads % kv_heads != 0)
      fail("{}: head counts do not divide", c.path());
    if (experts_per_token > experts)
      fail("{}: num_experts_per_tok is larger than num_experts", c.path());
  }

  int layers, hidden, vocab, heads, kv_heads, head_dim;
  int key_heads, key_dim, value_heads, value_dim, taps;
  int experts, experts_per_token, expert_inner, shared_inner;
  double eps;
  bool tied;
  std::vector<std::string> layer_types;
};

// Softmax attention whose output is gated by a sigmoid of the same input.
class GatedAttention {
 public:
  GatedAttention(const Weights& w, const Config& c, const ops::Rope& rope, int layer)
      : qkv_(w.merged<3>(
            "qkv_proj", {"q_proj", "k_proj", "v_proj"},
            {2 * c.heads * c.head_dim, c.kv_heads * c.head_dim, c.kv_heads * c.head_dim},
            c.hidden)),
        q_norm_(w.norm_plus_one("q_norm", c.head_dim, c.eps)),
        k_norm_(w.norm_plus_one("k_norm", c.head_dim, c.eps)),
        o_proj_(w.linear("o_proj", c.hidden, c.heads * c.head_dim)),
        rope_(rope),
        head_dim_(c.head_dim),
        shape_{.layer = layer, .scale = 1.0 / std::sqrt(static_cast<double>(c.head_dim))} {}

  Tensor operator()(const Tensor& x, Pass& pass) const {
    auto [query_and_gate, key, value] = qkv_(x);
    auto per_head = [](const Tensor& t, int width) { return t.unflatten(-1, {-1, width}); };
    // Each head's rows hold its query, then its gate.
    const auto halves = per_head(query_and_gate, 2 * head_dim_).chunk(2, -1);
    Tensor q = rope_(q_norm_(halves[0]), pass.grid_positions());
    Tensor k = rope_(k_norm_(per_head(key, head_dim_)), pass.grid_positions());
    Tensor mixed = attend(q, k, per_head(value, head_dim_), shape_, pass);
    return o_proj_(ops::sigmoid_gate(mixed, halves[1]).flatten(1));
  }

 private:
  Merged<3> qkv_;
  Norm q_norm_, k_norm_;
  Linear o_proj_;
  ops::Rope rope_;
  int head_dim_;
  AttentionShape shape_;
};

// Linear attention: each head keeps a matrix, decayed and corrected by the delta rule per token.
class GatedDeltaNet {
 public:
  GatedDeltaNet(const Weights& w, const Config& c, int layer)
      : shape_{layer, c.key_heads, c.value_heads, c.key_dim, c.value_dim},
        qkv_z_(w.merged<2>("in_proj_qkvz", {"in_proj_qkv", "in_proj_z"},
                           {channels(c), c.value_heads * c.value_dim}, c.hidden)),
        b_a_(w.merged<2>("in_proj_ba", {"in_proj_b", "in_proj_a"}, {c.value_heads, c.value_heads},
                         c.hidden)),
        conv1d_(w.tensor("conv1d.weight", {channels(c), 1, c.taps}).squeeze(1)),
        decay_rate_(-w.tensor("A_log", {c.value_heads}).exp()),
        dt_bias_(w.tensor("dt_bias", {c.value_heads})),
        norm_(w.norm("norm", c.value_dim, c.eps)),
        out_proj_(w.linear("out_proj", c.hidden, c.value_heads * c.value_dim)) {}

  Tensor operator()(const Tensor& x, Pass& pass) const {
    auto [qkv, z] = qkv_z_(x);
    auto [b, a] = b_a_(x);
    Tensor decay = decay_rate_ * ops::softplus(a + dt_bias_);
    Tensor mixed = delta_net(qkv, conv1d_, decay, ops::sigmoid(b), shape_, pass);
    return out_proj_(norm_.gated(mixed, z.unflatten(-1, {-1, shape_.value_dim})).flatten(1));
  }

 private:
  static int64_t channels(const Config& c) {
    return 2 * c.key_heads * c.key_dim + c.value_heads * c.value_dim;
  }

  DeltaShape shape_;
  Merged<2> qkv_z_, b_a_;
  Tensor conv1d_, decay_rate_, dt_bias_;
  Norm norm_;
  Linear out_proj_;
};

class SparseMlp {
 public:
  SparseMlp(const Weights& w, const Config& c)
      : gate_(w.linear("gate", c.experts, c.hidden, Role::router)),
        experts_(w.experts("experts", c.experts, c.hidden, c.expert_inner)),
        shared_expert_(w.mlp("shared_expert", c.hidden, c.shared_inner)),
        shared_expert_gate_(w.linear("shared_expert_gate", 1, c.hidden, Role::shared_expert_gate)),
        experts_per_token_(c.experts_per_token) {}

  Tensor operator()(const Tensor& x, Pass& pass) const {
    ops::Routing routing = ops::softmax_top_k(gate_(x), experts_per_token_);
    Tensor shared = ops::sigmoid_gate(shared_expert_(x), shared_expert_gate_(x));
    return experts_(x, routing, pass.pairs_per_expert) + shared;
  }

 private:
  Linear gate_;
  Experts experts_;
  Mlp shared_expert_;
  Linear shared_expert_gate_;
  int experts_per_token_;
};

class Qwen36Block : public Block {
 public:
  Qwen36Block(const Weights& w, const Config& c, const ops::Rope& rope, int layer,
              bool full_attention)
      : input_layernorm_(w.norm_plus_one("input_layernorm", c.hidden, c.eps)),
        post_attention_layernorm_(w.norm_plus_one("post_attention_layernorm", c.hidden, c.eps)) {
    // The mixer first: linears are listed in the order in which a token meets them.
    if (full_attention)
      self_attn_.emplace(w / "self_attn", c, rope, layer);
    else
      linear_attn_.emplace(w / "linear_attn", c, layer);
    mlp_.emplace(w / "mlp", c);
  }

  Tensor operator()(const Tensor& input, Pass& pass) const override {
    Tensor x = input_layernorm_(input);
    Tensor hidden = input + (self_attn_ ? (*self_attn_)(x, pass) : (*linear_attn_)(x, pass));
    return hidden + (*mlp_)(post_attention_layernorm_(hidden), pass);
  }

 private:
  Norm input_layernorm_, post_attention_layernorm_;
  std::optional<GatedAttention> self_attn_;
  std::optional<GatedDeltaNet> linear_attn_;
  std::optional<SparseMlp> mlp_;
};

class Qwen36Stem : public Stem {
 public:
  Qwen36Stem(const Weights& w, const Config& c)
      : embed_tokens_(w.embedding("embed_tokens", c.vocab, c.hidden)) {}

  Tensor operator()(const Tensor& tokens, Pass& pass) const override {
    return pass.media.in_place_of(embed_tokens_(tokens));
  }

 private:
  Embedding embed_tokens_;
};

// Multi-token prediction: the embedding of the next token, then the normed state, through one more
// attention block.
class Qwen36Draft : public Draft {
 public:
  Qwen36Draft(const Weights& w, const Config& c, const ops::Rope& rope)
      : pre_fc_norm_embedding_(w.norm_plus_one("pre_fc_norm_embedding", c.hidden, c.eps)),
        pre_fc_norm_hidden_(w.norm_plus_one("pre_fc_norm_hidden", c.hidden, c.eps)),
        fc_(w.linear("fc", c.hidden, 2 * c.hidden, Role::draft_input)),
        block_(w / "layers" / 0, c, rope, c.layers, /*full_attention=*/true),
        norm_(w.norm_plus_one("norm", c.hidden, c.eps)) {}

  Tensor operator()(const Tensor& embedded, const Tensor& state, Pass& pass) const override {
    Tensor joined = at::cat({pre_fc_norm_embedding_(embedded), pre_fc_norm_hidden_(state)}, -1);
    return norm_(block_(fc_(joined), pass));
  }

 private:
  Norm pre_fc_norm_embedding_, pre_fc_norm_hidden_;
  Linear fc_;
  Qwen36Block block_;
  Norm norm_;
};

class Qwen36 : public Model {
 public:
  Qwen36(const Json& text_config, std::optional<Sight> sight)
      : c_(text_config), rope_(text_config, c_.head_dim), sight_(std::move(sight)) {}

  int blocks() const override { return c_.layers; }
  int64_t vocabulary() const override { return c_.vocab; }
  int64_t hidden() const override { return c_.hidden; }
  std::string blocks_path(const Weights& root) const override { return text(root).path("layers"); }

  std::optional<prompt::ImageTokens> image_tokens() const override {
    return sight_ ? std::optional(sight_->tokens) : std::nullopt;
  }
  std::unique_ptr<Vision> vision(const Weights& root) const override {
    return sight_ ? sight_->tower(root) : nullptr;
  }

  std::unique_ptr<Stem> stem(const Weights& root) const override {
    return std::make_unique<Qwen36Stem>(text(root), c_);
  }

  std::unique_ptr<Block> block(const Weights& root, int i) const override {
    const bool full_attention = c_.layer_types.at(i) == "full_attention";
    return std::make_unique<Qwen36Block>(text(root) / "layers" / i, c_, rope_, i, full_attention);
  }

  std::unique_ptr<Head> head(const Weights& root) const override {
    return std::make_unique<NormHead>(text(root).norm_plus_one("norm", c_.hidden, c_.eps),
                                      lm_head(root, text(root), c_.tied, c_.vocab, c_.hidden));
  }

  std::unique_ptr<Draft> draft(const Weights& root) const override {
    if (!root.has("mtp.fc.weight")) return nullptr;
    return std::make_unique<Qwen36Draft>((root / "mtp").drafting(), c_, rope_);
  }
  std::string draft_path(const Weights& root) const override { return root.path("mtp"); }

 private:
  // A text-only checkpoint has its tensors right below "model".
  static Weights text(const Weights& root) {
    const Weights nested = root / "model" / "language_model";
    return nested.has("embed_tokens.weight") ? nested : root / "model";
  }

  Config c_;
  ops::Rope rope_;
  std::optional<Sight> sight_;
};

}  // namespace

// A text-only checkpoint has its text settings at the top.
std::unique_ptr<Model> make_qwen3_6(const Json& config) {
  return std::make_unique<Qwen36>(config.has("text_config") ? config.at("text_config") : config,
                                  qwen3_6_sight(config));
}

}  // namespace quern::models
