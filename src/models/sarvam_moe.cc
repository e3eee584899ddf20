// Sarvam-30B: a dense block, then blocks with experts, which have sigmoid scores and a learned
// balancing bias, and a shared expert; queries and keys are normalized before they are rotated.
// Members carry the released checkpoint's names. After the authors' modeling_sarvam_moe.py; the
// second set of names comes from the port to transformers.

#include <cmath>

#include "base/error.h"
#include "models/settings.h"
#include "nn/ends.h"
#include "nn/nn.h"

namespace quern::models {
namespace {

using namespace nn;

// Defaults after the authors' configuration_sarvam_moe.py. Many differ from the released model,
// whose config.json states its values; if a value is missing there, the shapes of the tensors
// contradict the default.
struct Config {
  explicit Config(const Settings& c)
      : layers(c.get("num_hidden_layers", 19)),
        hidden(c.get("hidden_size", 4096)),
        inner(c.get("intermediate_size", 8192)),
        vocab(c.get("vocab_size", 262144)),
        heads(c.get("num_attention_heads", 16)),
        kv_heads(c.get("num_key_value_heads", 4)),
        head_dim(c.get("head_dim", 256)),
        dense_layers(c.get("first_k_dense_replace", 1)),
        experts(c.get("num_experts", 128)),
        expert_inner(c.get("moe_intermediate_size", 1024)),
        shared_inner(c.get("num_shared_experts", 1) *
                     c.get("moe_shared_expert_intermediate_size", expert_inner)),
        routing{.k = c.get("num_experts_per_tok", 6),
                .groups = c.get("n_group", 1),
                .kept_groups = c.get("topk_group", 1),
                .normalize = c.get("norm_topk_prob", true),
                .factor = c.get("routed_scaling_factor", 2.5)},
        eps(c.get("rms_norm_eps", 1e-6)),
        qk_norm(c.get("use_qk_norm", true)),
        tied(c.get("tie_word_embeddings", false)),
        rope(c.rope(head_dim, {.positions = 4096})) {
    c.only("hidden_act", {"\"silu\""});
    c.only("score_function", {"\"sigmoid\""});
    c.only("router_dtype", {"\"fp32\"", "\"float32\""});
    c.only("moe_router_enable_expert_bias", {"true"});
    c.only("use_rmsnorm", {"true"});
    // vLLM would rotate only a part, the authors' file rotates all dimensions.
    c.only("partial_rotary_factor", {"1.0"});
    c.only("rotary_dim", {fmt::format("{}", head_dim)});
    c.refuse_unread();
    check_heads(c.path(), heads, kv_heads, head_dim);
    check_routing(routing, experts, c.path());
    if (shared_inner <= 0) fail("{}: num_shared_experts 0 is not implemented", c.path());
  }

  int layers, hidden, inner, vocab, heads, kv_heads, head_dim;
  int dense_layers, experts, expert_inner, shared_inner;
  ops::SigmoidTopK routing;
  double eps;
  bool qk_norm, tied;
  ops::Rope rope;
};

// The names that differ between the released checkpoint and one saved by transformers.
struct Names {
  const char *embedding, *attention, *query_norm, *key_norm, *output, *expert_bias;
};
constexpr Names kReleased = {"word_embeddings", "attention", "query_layernorm",
                             "key_layernorm",   "dense",     "expert_bias"};
constexpr Names kTransformers = {"embed_tokens", "self_attn", "q_norm",
                                 "k_norm",       "o_proj",    "e_score_correction_bias"};

const Names& names_of(const Weights& root) {
  return root.has("model.word_embeddings.weight") ? kReleased : kTransformers;
}

class Attention {
 public:
  Attention(const Weights& w, const Names& names, const Config& c, int layer)
      : query_key_value_(w.merged("query_key_value",
                                  {{"q_proj", Axis::heads(c.heads, c.head_dim)},
                                   {"k_proj", Axis::heads(c.kv_heads, c.head_dim)},
                                   {"v_proj", Axis::heads(c.kv_heads, c.head_dim)}},
                                  c.hidden)),
        dense_(w.closing(names.output, c.hidden, Axis::heads(c.heads, c.head_dim))),
        rope_(c.rope),
        head_dim_(c.head_dim),
        shape_{.layer = layer, .scale = 1.0 / std::sqrt(static_cast<double>(c.head_dim))} {
    if (!c.qk_norm) return;
    query_layernorm_ = w.norm(names.query_norm, c.head_dim, c.eps);
    key_layernorm_ = w.norm(names.key_norm, c.head_dim, c.eps);
  }

  Tensor operator()(const Tensor& x, Pass& pass) const {
    auto [query, key, value] = query_key_value_.parts<3>(x);
    auto per_head = [&](const Tensor& t) { return t.unflatten(-1, {-1, head_dim_}); };
    Tensor q = per_head(query), k = per_head(key);
    if (query_layernorm_) q = (*query_layernorm_)(q), k = (*key_layernorm_)(k);
    q = rope_(q, pass.positions);
    k = rope_(k, pass.positions);
    return dense_(attend(q, k, per_head(value), shape_, pass).flatten(1));
  }

 private:
  Linear query_key_value_;
  std::optional<Norm> query_layernorm_, key_layernorm_;
  Linear dense_;
  ops::Rope rope_;
  int head_dim_;
  AttentionShape shape_;
};

class SparseMlp {
 public:
  SparseMlp(const Weights& w, const Names& names, const Config& c)
      : gate_(w.linear("gate", c.experts, c.hidden, Role::router)),
        expert_bias_((w / "gate").tensor(names.expert_bias, {c.experts})),
        experts_(w.experts("experts", c.experts, c.hidden, c.expert_inner)),
        shared_experts_(w.mlp("shared_experts", c.hidden, c.shared_inner)),
        routing_(c.routing) {}

  Tensor operator()(const Tensor& x, Pass& pass) const {
    ops::Routing routing = ops::sigmoid_top_k(gate_(x), expert_bias_, routing_);
    return experts_(x, routing, pass.pairs_per_expert) + shared_experts_(x);
  }

 private:
  Linear gate_;
  Tensor expert_bias_;
  Experts experts_;
  Mlp shared_experts_;
  ops::SigmoidTopK routing_;
};

class SarvamMoeBlock : public Block {
 public:
  SarvamMoeBlock(const Weights& w, const Names& names, const Config& c, int layer)
      : input_layernorm_(w.norm("input_layernorm", c.hidden, c.eps,
                                {std::string(names.attention) + ".query_key_value"})),
        attention_(w / names.attention, names, c, layer),
        post_attention_layernorm_(w.norm(
            "post_attention_layernorm", c.hidden, c.eps,
            layer < c.dense_layers ? std::vector<std::string>{"mlp.gate_up_proj"}
                                   : std::vector<std::string>{"mlp.gate", "mlp.experts",
                                                              "mlp.shared_experts.gate_up_proj"})) {
    if (layer < c.dense_layers)
      dense_mlp_ = w.mlp("mlp", c.hidden, c.inner);
    else
      sparse_mlp_.emplace(w / "mlp", names, c);
    w.expect_all_taken();
  }

  Tensor mixed(const Tensor& input, Pass& pass) const override {
    return input + attention_(input_layernorm_(input), pass);
  }
  Tensor fed_forward(const Tensor& hidden, Pass& pass) const override {
    Tensor x = post_attention_layernorm_(hidden);
    return hidden + (dense_mlp_ ? (*dense_mlp_)(x) : (*sparse_mlp_)(x, pass));
  }

 private:
  Norm input_layernorm_;
  Attention attention_;
  Norm post_attention_layernorm_;
  std::optional<Mlp> dense_mlp_;
  std::optional<SparseMlp> sparse_mlp_;
};

class SarvamMoe : public Model {
 public:
  explicit SarvamMoe(const Json& config) : c_(Settings(config)) {}

  int blocks() const override { return c_.layers; }
  int64_t experts_per_token() const override { return c_.routing.k; }
  int64_t vocabulary() const override { return c_.vocab; }
  int64_t hidden() const override { return c_.hidden; }
  std::string blocks_path(const Weights& root) const override { return root.path("model.layers"); }

  std::unique_ptr<Stem> stem(const Weights& root) const override {
    expect_last_block(root / "model" / "layers", c_.layers);
    return std::make_unique<TokenStem>(
        (root / "model").embedding(names_of(root).embedding, c_.vocab, c_.hidden));
  }

  std::unique_ptr<Block> block(const Weights& root, int i) const override {
    return std::make_unique<SarvamMoeBlock>(root / "model" / "layers" / i, names_of(root), c_, i);
  }

  std::unique_ptr<Head> head(const Weights& root) const override {
    return std::make_unique<NormHead>(
        (root / "model").norm("norm", c_.hidden, c_.eps),
        lm_head(root, root / "model", c_.tied, c_.vocab, c_.hidden, names_of(root).embedding));
  }

  std::unique_ptr<Draft> draft(const Weights&) const override { return nullptr; }

 private:
  Config c_;
};

}  // namespace

std::unique_ptr<Model> make_sarvam_moe(const Json& config) {
  return std::make_unique<SarvamMoe>(config);
}

}  // namespace quern::models
