// Sarvam-30B: a dense block, then blocks of experts that a sigmoid scores and a learned bias
// balances, beside a shared expert; queries and keys are normed before they are rotated. Members
// carry the released checkpoint's names. After the authors' modeling_sarvam_moe.py; the second set
// of names is that of the port to transformers.

#include <cmath>

#include "base/error.h"
#include "models/settings.h"
#include "nn/ends.h"
#include "nn/nn.h"

namespace quern::models {
namespace {

using namespace nn;

struct Config {
  // No defaults for sizes: those of the configuration class are not the released model's.
  explicit Config(const Json& c)
      : layers(c.get<int>("num_hidden_layers")),
        hidden(c.get<int>("hidden_size")),
        inner(c.get<int>("intermediate_size")),
        vocab(c.get<int>("vocab_size")),
        heads(c.get<int>("num_attention_heads")),
        kv_heads(c.get<int>("num_key_value_heads")),
        head_dim(c.get<int>("head_dim")),
        dense_layers(c.get<int>("first_k_dense_replace")),
        experts(c.get<int>("num_experts")),
        expert_inner(c.get<int>("moe_intermediate_size")),
        shared_inner(c.get<int>("num_shared_experts") *
                     c.get<int>("moe_shared_expert_intermediate_size", expert_inner)),
        routing{.k = c.get<int>("num_experts_per_tok"),
                .groups = c.get<int>("n_group", 1),
                .kept_groups = c.get<int>("topk_group", 1),
                .normalize = c.get<bool>("norm_topk_prob", true),
                .factor = c.get<double>("routed_scaling_factor")},
        eps(c.get<double>("rms_norm_eps")),
        qk_norm(c.get<bool>("use_qk_norm", true)),
        tied(c.get<bool>("tie_word_embeddings", false)) {
    refuse(c);
    check(c.path());
  }

  static void refuse(const Json& c) {
    only(c, "hidden_act", {"\"silu\""});
    only(c, "score_function", {"\"sigmoid\""});
    only(c, "router_dtype", {"\"fp32\"", "\"float32\""});
    only(c, "moe_router_enable_expert_bias", {"true"});
    only(c, "use_rmsnorm", {"true"});
    // vLLM rotates a part where the authors' file rotates all.
    only(c, "partial_rotary_factor", {"1.0"});
    only(c, "rotary_dim", {fmt::format("{}", c.get<int>("head_dim"))});
    refuse_unknown(c, {"first_k_dense_replace",
                       "hidden_act",
                       "moe_intermediate_size",
                       "moe_router_enable_expert_bias",
                       "moe_shared_expert_intermediate_size",
                       "n_group",
                       "norm_topk_prob",
                       "num_attention_heads",
                       "num_experts",
                       "num_experts_per_tok",
                       "num_shared_experts",
                       "partial_rotary_factor",
                       "rms_norm_eps",
                       "rope_parameters",
                       "rope_scaling",
                       "rope_theta",
                       "rotary_dim",
                       "routed_scaling_factor",
                       "score_function",
                       "topk_group",
                       "use_qk_norm",
                       "use_rmsnorm"});
    const Json rope = c.has("rope_parameters") ? c.at("rope_parameters") : c;
    if (!c.has("rope_theta")) rope.at("rope_theta");
  }

  void check(const std::string& path) const {
    if (kv_heads <= 0 || heads % kv_heads != 0)
      fail("{}: {} attention heads do not divide into {} kv heads", path, heads, kv_heads);
    if (shared_inner <= 0) fail("{}: num_shared_experts 0 is not implemented", path);
    check_routing(routing, experts, path);
  }

  int layers, hidden, inner, vocab, heads, kv_heads, head_dim;
  int dense_layers, experts, expert_inner, shared_inner;
  ops::SigmoidTopK routing;
  double eps;
  bool qk_norm, tied;
};

// The names in which the released checkpoint and one that transformers saved differ.
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
  Attention(const Weights& w, const Names& names, const Config& c, const ops::Rope& rope, int layer)
      : query_key_value_(w.merged<3>(
            "query_key_value", {"q_proj", "k_proj", "v_proj"},
            {c.heads * c.head_dim, c.kv_heads * c.head_dim, c.kv_heads * c.head_dim}, c.hidden)),
        dense_(w.linear(names.output, c.hidden, c.heads * c.head_dim)),
        rope_(rope),
        head_dim_(c.head_dim),
        shape_{.layer = layer, .scale = 1.0 / std::sqrt(static_cast<double>(c.head_dim))} {
    if (!c.qk_norm) return;
    query_layernorm_ = w.norm(names.query_norm, c.head_dim, c.eps);
    key_layernorm_ = w.norm(names.key_norm, c.head_dim, c.eps);
  }

  Tensor operator()(const Tensor& x, Pass& pass) const {
    auto [query, key, value] = query_key_value_(x);
    auto per_head = [&](const Tensor& t) { return t.unflatten(-1, {-1, head_dim_}); };
    Tensor q = per_head(query), k = per_head(key);
    if (query_layernorm_) q = (*query_layernorm_)(q), k = (*key_layernorm_)(k);
    q = rope_(q, pass.positions);
    k = rope_(k, pass.positions);
    return dense_(attend(q, k, per_head(value), shape_, pass).flatten(1));
  }

 private:
  Merged<3> query_key_value_;
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
  SarvamMoeBlock(const Weights& w, const Names& names, const Config& c, const ops::Rope& rope,
                 int layer)
      : input_layernorm_(w.norm("input_layernorm", c.hidden, c.eps)),
        attention_(w / names.attention, names, c, rope, layer),
        post_attention_layernorm_(w.norm("post_attention_layernorm", c.hidden, c.eps)) {
    if (layer < c.dense_layers)
      dense_mlp_ = w.mlp("mlp", c.hidden, c.inner);
    else
      sparse_mlp_.emplace(w / "mlp", names, c);
    w.expect_all_taken();
  }

  Tensor operator()(const Tensor& input, Pass& pass) const override {
    Tensor hidden = input + attention_(input_layernorm_(input), pass);
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
  explicit SarvamMoe(const Json& config) : c_(config), rope_(config, c_.head_dim) {}

  int blocks() const override { return c_.layers; }
  int64_t vocabulary() const override { return c_.vocab; }
  int64_t hidden() const override { return c_.hidden; }
  std::string blocks_path(const Weights& root) const override { return root.path("model.layers"); }

  std::unique_ptr<Stem> stem(const Weights& root) const override {
    expect_last_block(root / "model" / "layers", c_.layers);
    return std::make_unique<TokenStem>(
        (root / "model").embedding(names_of(root).embedding, c_.vocab, c_.hidden));
  }

  std::unique_ptr<Block> block(const Weights& root, int i) const override {
    return std::make_unique<SarvamMoeBlock>(root / "model" / "layers" / i, names_of(root), c_,
                                            rope_, i);
  }

  std::unique_ptr<Head> head(const Weights& root) const override {
    const Weights place = c_.tied ? root / "model" : root;
    const std::string name = c_.tied ? names_of(root).embedding : "lm_head";
    return std::make_unique<NormHead>((root / "model").norm("norm", c_.hidden, c_.eps),
                                      place.linear(name, c_.vocab, c_.hidden, Role::lm_head));
  }

  std::unique_ptr<Draft> draft(const Weights&) const override { return nullptr; }

 private:
  Config c_;
  ops::Rope rope_;
};

}  // namespace

std::unique_ptr<Model> make_sarvam_moe(const Json& config) {
  return std::make_unique<SarvamMoe>(config);
}

}  // namespace quern::models
