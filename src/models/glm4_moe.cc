// GLM-4.5 (Air and its relatives): dense blocks, then blocks with experts, which have sigmoid
// scores and a learned balancing bias, and a shared expert. Members carry their Hugging Face names.
// After transformers' modeling_glm4_moe.py; the draft layer after its MtpModel and vLLM's
// glm4_moe_mtp.py.

#include <cmath>

#include "base/error.h"
#include "models/settings.h"
#include "nn/ends.h"
#include "nn/nn.h"

namespace quern::models {
namespace {

using namespace nn;

// Defaults after transformers' configuration_glm4_moe.py.
struct Config {
  explicit Config(const Settings& c)
      : layers(c.get("num_hidden_layers", 46)),
        hidden(c.get("hidden_size", 4096)),
        inner(c.get("intermediate_size", 10944)),
        vocab(c.get("vocab_size", 151552)),
        heads(c.get("num_attention_heads", 96)),
        kv_heads(c.get("num_key_value_heads", 8)),
        head_dim(c.get("head_dim", heads > 0 ? hidden / heads : 0)),
        dense_layers(c.get("first_k_dense_replace", 1)),
        experts(c.get("n_routed_experts", 128)),
        expert_inner(c.get("moe_intermediate_size", 1408)),
        shared_inner(c.get("n_shared_experts", 1) * expert_inner),
        routing{.k = c.get("num_experts_per_tok", 8),
                .groups = c.get("n_group", 1),
                .kept_groups = c.get("topk_group", 1),
                .normalize = c.get("norm_topk_prob", true),
                .factor = c.get("routed_scaling_factor", 1.0)},
        eps(c.get("rms_norm_eps", 1e-5)),
        qkv_bias(c.get("attention_bias", false) ? Bias::present : Bias::none),
        qk_norm(c.get("use_qk_norm", false)),
        tied(c.get("tie_word_embeddings", false)),
        rope(c.rope(head_dim, {.partial = 0.5, .positions = 131072})) {
    c.only("hidden_act", {"\"silu\""});
    c.only("scoring_func", {"\"sigmoid\""});
    c.only("topk_method", {"\"noaux_tc\""});
    c.only("decoder_sparse_step", {"1"});
    c.only("moe_layer_freq", {"1"});
    c.only("num_nextn_predict_layers", {"0", "1"});
    c.only("num_mtp_layers", {"0", "1"});
    c.refuse_unread();
    check_heads(c.path(), heads, kv_heads, head_dim);
    check_routing(routing, experts, c.path());
    if (shared_inner <= 0) fail("{}: n_shared_experts 0 is not implemented", c.path());
  }

  int layers, hidden, inner, vocab, heads, kv_heads, head_dim;
  int dense_layers, experts, expert_inner, shared_inner;
  ops::SigmoidTopK routing;
  double eps;
  Bias qkv_bias;
  bool qk_norm, tied;
  ops::Rope rope;
};

class Attention {
 public:
  Attention(const Weights& w, const Config& c, int layer)
      : qkv_(w.merged("qkv_proj",
                      {{"q_proj", Axis::heads(c.heads, c.head_dim)},
                       {"k_proj", Axis::heads(c.kv_heads, c.head_dim)},
                       {"v_proj", Axis::heads(c.kv_heads, c.head_dim)}},
                      c.hidden, c.qkv_bias)),
        o_proj_(w.closing("o_proj", c.hidden, Axis::heads(c.heads, c.head_dim))),
        rope_(c.rope),
        head_dim_(c.head_dim),
        shape_{.layer = layer, .scale = 1.0 / std::sqrt(static_cast<double>(c.head_dim))} {
    if (!c.qk_norm) return;
    q_norm_ = w.norm("q_norm", c.head_dim, c.eps);
    k_norm_ = w.norm("k_norm", c.head_dim, c.eps);
  }

  Tensor operator()(const Tensor& x, Pass& pass) const {
    auto [query, key, value] = qkv_.parts<3>(x);
    auto per_head = [&](const Tensor& t) { return t.unflatten(-1, {-1, head_dim_}); };
    Tensor q = per_head(query), k = per_head(key);
    if (q_norm_) q = (*q_norm_)(q), k = (*k_norm_)(k);
    q = rope_(q, pass.positions);
    k = rope_(k, pass.positions);
    return o_proj_(attend(q, k, per_head(value), shape_, pass).flatten(1));
  }

 private:
  Linear qkv_;
  std::optional<Norm> q_norm_, k_norm_;
  Linear o_proj_;
  ops::Rope rope_;
  int head_dim_;
  AttentionShape shape_;
};

class SparseMlp {
 public:
  SparseMlp(const Weights& w, const Config& c)
      : gate_(w.linear("gate", c.experts, c.hidden, Role::router)),
        e_score_correction_bias_(w.tensor("gate.e_score_correction_bias", {c.experts})),
        experts_(w.experts("experts", c.experts, c.hidden, c.expert_inner)),
        shared_experts_(w.mlp("shared_experts", c.hidden, c.shared_inner)),
        routing_(c.routing) {}

  Tensor operator()(const Tensor& x, Pass& pass) const {
    ops::Routing routing = ops::sigmoid_top_k(gate_(x), e_score_correction_bias_, routing_);
    return experts_(x, routing, pass.pairs_per_expert) + shared_experts_(x);
  }

 private:
  Linear gate_;
  Tensor e_score_correction_bias_;
  Experts experts_;
  Mlp shared_experts_;
  ops::SigmoidTopK routing_;
};

class Glm4MoeBlock : public Block {
 public:
  Glm4MoeBlock(const Weights& w, const Config& c, int layer)
      : input_layernorm_(w.norm("input_layernorm", c.hidden, c.eps, {"self_attn.qkv_proj"})),
        self_attn_(w / "self_attn", c, layer),
        post_attention_layernorm_(w.norm(
            "post_attention_layernorm", c.hidden, c.eps,
            layer < c.dense_layers ? std::vector<std::string>{"mlp.gate_up_proj"}
                                   : std::vector<std::string>{"mlp.gate", "mlp.experts",
                                                              "mlp.shared_experts.gate_up_proj"})) {
    if (layer < c.dense_layers)
      dense_mlp_ = w.mlp("mlp", c.hidden, c.inner);
    else
      sparse_mlp_.emplace(w / "mlp", c);
  }

  Tensor mixed(const Tensor& input, Pass& pass) const override {
    return input + self_attn_(input_layernorm_(input), pass);
  }
  Tensor fed_forward(const Tensor& hidden, Pass& pass) const override {
    Tensor x = post_attention_layernorm_(hidden);
    return hidden + (dense_mlp_ ? (*dense_mlp_)(x) : (*sparse_mlp_)(x, pass));
  }

 private:
  Norm input_layernorm_;
  Attention self_attn_;
  Norm post_attention_layernorm_;
  std::optional<Mlp> dense_mlp_;
  std::optional<SparseMlp> sparse_mlp_;
};

// Multi-token prediction: one more block after the last one. Newer checkpoints omit its copies of
// embedding and head.
class Glm4MoeDraft : public Draft {
 public:
  Glm4MoeDraft(const Weights& w, const Config& c)
      : enorm_(w.norm("enorm", c.hidden, c.eps)),
        hnorm_(w.norm("hnorm", c.hidden, c.eps)),
        eh_proj_(w.linear("eh_proj", c.hidden, 2 * c.hidden, Role::draft_input)),
        block_(w, c, c.layers),
        norm_((w / "shared_head").norm("norm", c.hidden, c.eps)) {
    if (w.has("embed_tokens.weight"))
      embed_tokens_ = w.embedding("embed_tokens", c.vocab, c.hidden);
    if (w.has_linear("shared_head.head"))
      head_ = (w / "shared_head").linear("head", c.vocab, c.hidden, Role::lm_head);
    w.expect_all_taken();
  }

  Tensor embed(const Tensor& tokens, const Stem& stem, Pass& pass) const override {
    return embed_tokens_ ? (*embed_tokens_)(tokens) : stem(tokens, pass);
  }

  Tensor operator()(const Tensor& embedded, const Tensor& state, Pass& pass) const override {
    Tensor e = embedded;
    if (convention_.zero_first_embedding) e = e * (pass.positions != 0).unsqueeze(-1);
    Tensor hidden = block_(eh_proj_(at::cat({enorm_(e), hnorm_(state)}, -1)), pass);
    return convention_.feed_back_normed ? norm_(hidden) : hidden;
  }

  Tensor logits(const Tensor& state, const Head& head) const override {
    Tensor normed = convention_.feed_back_normed ? state : norm_(state);
    return head_ ? (*head_)(normed) : head.logits(normed);
  }

  void follow(const DraftConvention& convention) override { convention_ = convention; }

 private:
  std::optional<Embedding> embed_tokens_;
  Norm enorm_, hnorm_;
  Linear eh_proj_;
  Glm4MoeBlock block_;
  Norm norm_;
  std::optional<Linear> head_;
  DraftConvention convention_ = kTransformersDraft;
};

class Glm4Moe : public Model {
 public:
  explicit Glm4Moe(const Json& config) : c_(Settings(config)) {}

  int blocks() const override { return c_.layers; }
  int64_t experts_per_token() const override { return c_.routing.k; }
  int64_t vocabulary() const override { return c_.vocab; }
  int64_t hidden() const override { return c_.hidden; }
  std::string blocks_path(const Weights& root) const override { return root.path("model.layers"); }
  std::string draft_path(const Weights& root) const override {
    return root.path(fmt::format("model.layers.{}", c_.layers));
  }

  std::unique_ptr<Stem> stem(const Weights& root) const override {
    const Weights layers = root / "model" / "layers";
    expect_last_block(layers, has_draft(root) ? c_.layers + 1 : c_.layers);
    return std::make_unique<TokenStem>(
        (root / "model").embedding("embed_tokens", c_.vocab, c_.hidden));
  }

  std::unique_ptr<Block> block(const Weights& root, int i) const override {
    const Weights place = root / "model" / "layers" / i;
    auto block = std::make_unique<Glm4MoeBlock>(place, c_, i);
    place.expect_all_taken();
    return block;
  }

  std::unique_ptr<Head> head(const Weights& root) const override {
    return std::make_unique<NormHead>((root / "model").norm("norm", c_.hidden, c_.eps),
                                      lm_head(root, root / "model", c_.tied, c_.vocab, c_.hidden));
  }

  std::unique_ptr<Draft> draft(const Weights& root) const override {
    if (!has_draft(root)) return nullptr;
    const Weights place = root / "model" / "layers" / c_.layers;
    return std::make_unique<Glm4MoeDraft>(place.drafting(), c_);
  }

 private:
  bool has_draft(const Weights& root) const {
    return (root / "model" / "layers" / c_.layers).has_linear("eh_proj");
  }

  Config c_;
};

}  // namespace

std::unique_ptr<Model> make_glm4_moe(const Json& config) {
  return std::make_unique<Glm4Moe>(config);
}

}  // namespace quern::models
