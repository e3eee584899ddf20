// Llama 2 and 3, dense text models. Members carry their Hugging Face names. After transformers'
// modeling_llama.py.

#include <cmath>

#include "base/error.h"
#include "models/settings.h"
#include "nn/ends.h"
#include "nn/nn.h"

namespace quern::models {
namespace {

using namespace nn;

// Defaults after transformers' configuration_llama.py.
struct Config {
  explicit Config(const Settings& c)
      : layers(c.get("num_hidden_layers", 32)),
        hidden(c.get("hidden_size", 4096)),
        inner(c.get("intermediate_size", 11008)),
        vocab(c.get("vocab_size", 32000)),
        heads(c.get("num_attention_heads", 32)),
        kv_heads(c.get("num_key_value_heads", heads)),
        head_dim(c.get("head_dim", heads > 0 ? hidden / heads : 0)),
        eps(c.get("rms_norm_eps", 1e-6)),
        tied(c.get("tie_word_embeddings", false)),
        rope(c.rope(head_dim, {.positions = 2048})) {
    c.only("hidden_act", {R"("silu")"});
    c.only("attention_bias", {"false"});
    c.only("mlp_bias", {"false"});
    c.only("partial_rotary_factor", {"1.0"});
    c.refuse_unread();
    check_heads(c.path(), heads, kv_heads, head_dim);
  }

  int layers, hidden, inner, vocab, heads, kv_heads, head_dim;
  double eps;
  bool tied;
  ops::Rope rope;
};

class Attention {
 public:
  Attention(const Weights& w, const Config& c, int layer)
      : qkv_(w.merged("qkv_proj",
                      {{"q_proj", Axis::heads(c.heads, c.head_dim)},
                       {"k_proj", Axis::heads(c.kv_heads, c.head_dim)},
                       {"v_proj", Axis::heads(c.kv_heads, c.head_dim)}},
                      c.hidden)),
        o_proj_(w.closing("o_proj", c.hidden, Axis::heads(c.heads, c.head_dim),
                          c.heads == c.kv_heads ? "v_proj" : "")),
        rope_(c.rope),
        head_dim_(c.head_dim),
        shape_{.layer = layer, .scale = 1.0 / std::sqrt(static_cast<double>(c.head_dim))} {}

  Tensor operator()(const Tensor& x, Pass& pass) const {
    auto [query, key, value] = qkv_.parts<3>(x);
    auto per_head = [&](const Tensor& t) { return t.unflatten(-1, {-1, head_dim_}); };
    Tensor q = rope_(per_head(query), pass.positions);
    Tensor k = rope_(per_head(key), pass.positions);
    return o_proj_(attend(q, k, per_head(value), shape_, pass).flatten(1));
  }

 private:
  Linear qkv_;
  Linear o_proj_;
  ops::Rope rope_;
  int head_dim_;
  AttentionShape shape_;
};

class LlamaBlock : public Block {
 public:
  LlamaBlock(const Weights& w, const Config& c, int layer)
      : input_layernorm_(w.norm("input_layernorm", c.hidden, c.eps, {"self_attn.qkv_proj"})),
        self_attn_(w / "self_attn", c, layer),
        post_attention_layernorm_(
            w.norm("post_attention_layernorm", c.hidden, c.eps, {"mlp.gate_up_proj"})),
        mlp_(w.mlp("mlp", c.hidden, c.inner)) {}

  Tensor mixed(const Tensor& input, Pass& pass) const override {
    return input + self_attn_(input_layernorm_(input), pass);
  }
  Tensor fed_forward(const Tensor& hidden, Pass&) const override {
    return hidden + mlp_(post_attention_layernorm_(hidden));
  }

 private:
  Norm input_layernorm_;
  Attention self_attn_;
  Norm post_attention_layernorm_;
  Mlp mlp_;
};

class Llama : public Model {
 public:
  explicit Llama(const Json& config) : c_(Settings(config)) {}

  int blocks() const override { return c_.layers; }
  int64_t vocabulary() const override { return c_.vocab; }
  int64_t hidden() const override { return c_.hidden; }
  std::string blocks_path(const Weights& root) const override { return root.path("model.layers"); }

  std::unique_ptr<Stem> stem(const Weights& root) const override {
    return std::make_unique<TokenStem>(
        (root / "model").embedding("embed_tokens", c_.vocab, c_.hidden));
  }
  std::unique_ptr<Block> block(const Weights& root, int i) const override {
    return std::make_unique<LlamaBlock>(root / "model" / "layers" / i, c_, i);
  }
  std::unique_ptr<Head> head(const Weights& root) const override {
    expect_last_block(root / "model" / "layers", c_.layers);
    return std::make_unique<NormHead>((root / "model").norm("norm", c_.hidden, c_.eps),
                                      lm_head(root, root / "model", c_.tied, c_.vocab, c_.hidden));
  }
  std::unique_ptr<Draft> draft(const Weights&) const override { return nullptr; }

 private:
  Config c_;
};

}  // namespace

std::unique_ptr<Model> make_llama(const Json& config) { return std::make_unique<Llama>(config); }

}  // namespace quern::models
