// Qwen3.6 mixture-of-experts text model: three gated-delta-net blocks, then one gated-attention
// block, repeated. Members carry their Hugging Face names. After transformers'
// modeling_qwen3_5_moe.py; the draft layer after vLLM's qwen3_5_mtp.py.

#include <cmath>

#include "base/error.h"
#include "models/vision.h"
#include "nn/ends.h"
#include "nn/nn.h"

namespace quern::models {
namespace {

using namespace nn;

// Defaults after transformers' configuration_qwen3_5_moe.py.
struct Config {
  Config(const Settings& c, bool tied)
      : layers(c.get("num_hidden_layers", 40)),
        hidden(c.get("hidden_size", 2048)),
        vocab(c.get("vocab_size", 248320)),
        heads(c.get("num_attention_heads", 16)),
        kv_heads(c.get("num_key_value_heads", 2)),
        head_dim(c.get("head_dim", 256)),
        key_heads(c.get("linear_num_key_heads", 16)),
        key_dim(c.get("linear_key_head_dim", 128)),
        value_heads(c.get("linear_num_value_heads", 32)),
        value_dim(c.get("linear_value_head_dim", 128)),
        taps(c.get("linear_conv_kernel_dim", 4)),
        experts(c.get("num_experts", 256)),
        experts_per_token(c.get("num_experts_per_tok", 8)),
        expert_inner(c.get("moe_intermediate_size", 512)),
        shared_inner(c.get("shared_expert_intermediate_size", 512)),
        eps(c.get("rms_norm_eps", 1e-6)),
        tied(tied),
        rope(c.rope(head_dim, {.partial = 0.25, .positions = 32768, .sections = {11, 11, 10}})),
        layer_types(types_of(c, layers)) {
    c.only("hidden_act", {"\"silu\""});
    c.only("attn_output_gate", {"true"});
    c.only("attention_bias", {"false"});
    c.only("mlp_only_layers", {"[]"});
    c.only("decoder_sparse_step", {"1"});
    c.only("norm_topk_prob", {"true"});
    c.only("mtp_num_hidden_layers", {"0", "1"});
    c.only("mtp_use_dedicated_embeddings", {"false"});
    c.refuse_unread();
    check_heads(c.path(), heads, kv_heads, head_dim);
    check_heads(c.path(), value_heads, key_heads, value_dim);
    if (const std::string why = ops::delta_refusal(key_dim, value_dim); !why.empty())
      fail("{}: {}", c.path(), why);
    check_experts_per_token(c.path(), "num_experts_per_tok", experts_per_token, experts);
  }

  static std::vector<std::string> types_of(const Settings& c, int layers) {
    const int interval = c.get("full_attention_interval", 4);
    std::vector<std::string> types = c.get<std::vector<std::string>>("layer_types", {});
    if (!c.has("layer_types")) {
      if (interval < 1) fail("{}: full_attention_interval must be positive", c.path());
      for (int i = 0; i < layers; ++i)
        types.emplace_back((i + 1) % interval ? "linear_attention" : "full_attention");
    }
    check_layer_types(c.path(), types, layers, {"linear_attention", "full_attention"});
    return types;
  }

  int layers, hidden, vocab, heads, kv_heads, head_dim;
  int key_heads, key_dim, value_heads, value_dim, taps;
  int experts, experts_per_token, expert_inner, shared_inner;
  double eps;
  bool tied;
  ops::Rope rope;
  std::vector<std::string> layer_types;
};

// Softmax attention with an output gate, a sigmoid of the same input.
class GatedAttention {
 public:
  GatedAttention(const Weights& w, const Config& c, int layer)
      : qkv_(w.merged("qkv_proj",
                      {{"q_proj", Axis::heads(c.heads, 2 * c.head_dim)},
                       {"k_proj", Axis::heads(c.kv_heads, c.head_dim)},
                       {"v_proj", Axis::heads(c.kv_heads, c.head_dim)}},
                      c.hidden)),
        q_norm_(w.norm_plus_one("q_norm", c.head_dim, c.eps)),
        k_norm_(w.norm_plus_one("k_norm", c.head_dim, c.eps)),
        o_proj_(w.closing("o_proj", c.hidden, Axis::heads(c.heads, c.head_dim),
                          c.heads == c.kv_heads ? "v_proj" : "")),
        rope_(c.rope),
        head_dim_(c.head_dim),
        shape_{.layer = layer, .scale = 1.0 / std::sqrt(static_cast<double>(c.head_dim))} {}

  Tensor operator()(const Tensor& x, Pass& pass) const {
    auto [query_and_gate, key, value] = qkv_.parts<3>(x);
    auto per_head = [](const Tensor& t, int width) { return t.unflatten(-1, {-1, width}); };
    // The rows of each head hold its query, then its gate.
    const auto halves = per_head(query_and_gate, 2 * head_dim_).chunk(2, -1);
    Tensor q = rope_(q_norm_(halves[0]), pass.grid_positions());
    Tensor k = rope_(k_norm_(per_head(key, head_dim_)), pass.grid_positions());
    Tensor mixed = attend(q, k, per_head(value, head_dim_), shape_, pass);
    return o_proj_(ops::sigmoid_gate(mixed, halves[1]).flatten(1));
  }

 private:
  Linear qkv_;
  Norm q_norm_, k_norm_;
  Linear o_proj_;
  ops::Rope rope_;
  int head_dim_;
  AttentionShape shape_;
};

// Linear attention: each head has a state matrix, which the delta rule decays and corrects for each
// token.
class GatedDeltaNet {
 public:
  GatedDeltaNet(const Weights& w, const Config& c, int layer)
      : shape_{layer, w.local(c.key_heads), w.local(c.value_heads), c.key_dim, c.value_dim},
        in_proj_(Linear::joined(
            w.merged("in_proj_qkvz",
                     {{"in_proj_qkv", channels(c)},
                      {"in_proj_z", Axis::heads(c.value_heads, c.value_dim)}},
                     c.hidden),
            w.merged("in_proj_ba", {{"in_proj_b", c.value_heads}, {"in_proj_a", c.value_heads}},
                     c.hidden))),
        conv1d_(w.tensor("conv1d.weight", {channels(c).size(), 1, c.taps}, channels(c)).squeeze(1)),
        decay_rate_(-w.tensor("A_log", {c.value_heads}, c.value_heads).exp()),
        dt_bias_(w.tensor("dt_bias", {c.value_heads}, c.value_heads)),
        norm_(w.norm("norm", c.value_dim, c.eps)),
        out_proj_(w.closing("out_proj", c.hidden, Axis::heads(c.value_heads, c.value_dim))) {}

  Tensor operator()(const Tensor& x, Pass& pass) const {
    auto [qkv, z, b, a] = in_proj_.parts<4>(x);
    Tensor decay = decay_rate_ * ops::softplus(a + dt_bias_);
    Tensor mixed = delta_net(qkv, conv1d_, decay, ops::sigmoid(b), shape_, pass);
    return out_proj_(norm_.gated(mixed, z.unflatten(-1, {-1, shape_.value_dim})).flatten(1));
  }

 private:
  // Queries, keys and values.
  static Axis channels(const Config& c) {
    return {{c.key_heads, c.key_dim}, {c.key_heads, c.key_dim}, {c.value_heads, c.value_dim}};
  }

  DeltaShape shape_;
  Linear in_proj_;
  Tensor conv1d_, decay_rate_, dt_bias_;
  Norm norm_;
  Linear out_proj_;
};

class SparseMlp {
 public:
  SparseMlp(const Weights& w, const Config& c)
      : gates_(
            Linear::joined(w.linear("gate", c.experts, c.hidden, Role::router),
                           w.linear("shared_expert_gate", 1, c.hidden, Role::shared_expert_gate))),
        experts_(w.experts("experts", c.experts, c.hidden, c.expert_inner)),
        shared_expert_(w.mlp("shared_expert", c.hidden, c.shared_inner)),
        experts_per_token_(c.experts_per_token) {}

  Tensor operator()(const Tensor& x, Pass& pass) const {
    auto [router, shared_gate] = gates_.parts<2>(x);
    ops::Routing routing = ops::softmax_top_k(router, experts_per_token_);
    Tensor shared = ops::sigmoid_gate(shared_expert_(x), shared_gate);
    return experts_(x, routing, pass.pairs_per_expert) + shared;
  }

 private:
  Linear gates_;  // for the experts and for the shared expert
  Experts experts_;
  Mlp shared_expert_;
  int experts_per_token_;
};

class Qwen36Block : public Block {
 public:
  Qwen36Block(const Weights& w, const Config& c, int layer, bool full_attention)
      : input_layernorm_(w.norm_plus_one(
            "input_layernorm", c.hidden, c.eps,
            full_attention ? Names{"self_attn.qkv_proj"}
                           : Names{"linear_attn.in_proj_qkvz", "linear_attn.in_proj_ba"})),
        post_attention_layernorm_(
            w.norm_plus_one("post_attention_layernorm", c.hidden, c.eps,
                            {"mlp.gate", "mlp.experts", "mlp.shared_expert.gate_up_proj",
                             "mlp.shared_expert_gate"})) {
    // The mixer first: linears are listed in the order of the computation.
    if (full_attention)
      self_attn_.emplace(w / "self_attn", c, layer);
    else
      linear_attn_.emplace(w / "linear_attn", c, layer);
    mlp_.emplace(w / "mlp", c);
  }

  Tensor mixed(const Tensor& input, Pass& pass) const override {
    Tensor x = input_layernorm_(input);
    return input + (self_attn_ ? (*self_attn_)(x, pass) : (*linear_attn_)(x, pass));
  }
  Tensor fed_forward(const Tensor& hidden, Pass& pass) const override {
    return hidden + (*mlp_)(post_attention_layernorm_(hidden), pass);
  }

 private:
  using Names = std::vector<std::string>;

  Norm input_layernorm_, post_attention_layernorm_;
  std::optional<GatedAttention> self_attn_;
  std::optional<GatedDeltaNet> linear_attn_;
  std::optional<SparseMlp> mlp_;
};

// Multi-token prediction: the embedding of the next token and the normalized state pass through one
// more attention block.
class Qwen36Draft : public Draft {
 public:
  Qwen36Draft(const Weights& w, const Config& c)
      : pre_fc_norm_embedding_(w.norm_plus_one("pre_fc_norm_embedding", c.hidden, c.eps)),
        pre_fc_norm_hidden_(w.norm_plus_one("pre_fc_norm_hidden", c.hidden, c.eps)),
        fc_(w.linear("fc", c.hidden, 2 * c.hidden, Role::draft_input)),
        block_(w / "layers" / 0, c, c.layers, /*full_attention=*/true),
        norm_(w.norm_plus_one("norm", c.hidden, c.eps)) {
    w.expect_all_taken();
  }

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
  explicit Qwen36(const Json& config)
      : c_(Settings(text_config(config)), config.get<bool>("tie_word_embeddings", false)),
        sight_(qwen3_6_sight(config)) {}

  int blocks() const override { return c_.layers; }
  int64_t experts_per_token() const override { return c_.experts_per_token; }
  int64_t vocabulary() const override { return c_.vocab; }
  int64_t hidden() const override { return c_.hidden; }
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
    expect_last_block(text_model(root) / "layers", c_.layers);
    return std::make_unique<TokenStem>(
        text_model(root).embedding("embed_tokens", c_.vocab, c_.hidden));
  }

  std::unique_ptr<Block> block(const Weights& root, int i) const override {
    const Weights place = text_model(root) / "layers" / i;
    auto block =
        std::make_unique<Qwen36Block>(place, c_, i, c_.layer_types.at(i) == "full_attention");
    place.expect_all_taken();
    return block;
  }

  std::unique_ptr<Head> head(const Weights& root) const override {
    const Weights text = text_model(root);
    return std::make_unique<NormHead>(text.norm_plus_one("norm", c_.hidden, c_.eps),
                                      lm_head(root, text, c_.tied, c_.vocab, c_.hidden));
  }

  std::unique_ptr<Draft> draft(const Weights& root) const override {
    if (!root.has("mtp.fc.weight")) return nullptr;
    return std::make_unique<Qwen36Draft>((root / "mtp").drafting(), c_);
  }
  std::string draft_path(const Weights& root) const override { return root.path("mtp"); }

 private:
  Config c_;
  std::optional<Sight> sight_;
};

}  // namespace

std::unique_ptr<Model> make_qwen3_6(const Json& config) { return std::make_unique<Qwen36>(config); }

}  // namespace quern::models
