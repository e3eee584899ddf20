// Gemma 4's vision tower: blocks with four norms and full attention between all patches, linears
// that clip their inputs and outputs, a mean over squares of patches, and a projection to the width
// of the text model. Members carry their Hugging Face names. After transformers'
// modeling_gemma4.py.

#include <cmath>

#include "base/error.h"
#include "models/vision.h"
#include "nn/nn.h"
#include "ops/attention.h"
#include "ops/axial_rope.h"

namespace quern::models {
namespace {

using namespace nn;

// Defaults after transformers' configuration_gemma4.py.
struct Config {
  Config(const Settings& c, int text_hidden)
      : layers(c.get("num_hidden_layers", 16)),
        hidden(c.get("hidden_size", 768)),
        inner(c.get("intermediate_size", 3072)),
        heads(c.get("num_attention_heads", 12)),
        head_dim(c.get("head_dim", 64)),
        patch(c.get("patch_size", 16)),
        pooling(c.get("pooling_kernel_size", 3)),
        positions(c.get("position_embedding_size", 10240)),
        text_hidden(text_hidden),
        eps(c.get("rms_norm_eps", 1e-6)),
        theta(axial_theta(c, 100)),
        clipped(c.get("use_clipped_linears", false)),
        standardized(c.get("standardize", false)) {
    c.only("hidden_activation", {"\"gelu_pytorch_tanh\""});
    c.only("attention_bias", {"false"});
    c.only("global_head_dim", {fmt::format("{}", head_dim)});
    if (const int kv_heads = c.get("num_key_value_heads", 12); kv_heads != heads)
      fail("{}: num_key_value_heads {} with num_attention_heads {} is not implemented", c.path(),
           kv_heads, heads);
    c.refuse_unread();
    if (layers < 1 || heads < 1 || head_dim < 4 || head_dim % 4 != 0 || patch < 1 || pooling < 1)
      fail(
          "{}: num_hidden_layers, num_attention_heads, patch_size and pooling_kernel_size must be "
          "positive, and head_dim a multiple of 4",
          c.path());
  }

  int64_t patch_values() const { return int64_t{3} * patch * patch; }

  int layers, hidden, inner, heads, head_dim, patch, pooling, positions, text_hidden;
  double eps, theta;
  bool clipped, standardized;
};

// clamp(W clamp(x)); the checkpoint stores the limits.
class ClippableLinear {
 public:
  ClippableLinear(const Weights& w, int64_t rows, int64_t columns, bool clipped)
      : linear_(w.linear("linear", rows, columns, Role::vision)) {
    if (!clipped) return;
    auto limit = [&](const char* name) { return w.tensor(name, {}).item<double>(); };
    limits_ = {limit("input_min"), limit("input_max"), limit("output_min"), limit("output_max")};
  }

  Tensor operator()(const Tensor& x) const {
    if (!limits_) return linear_(x);
    const Limits& l = *limits_;
    return linear_(x.clamp(l.input_min, l.input_max)).clamp_(l.output_min, l.output_max);
  }

 private:
  struct Limits {
    double input_min, input_max, output_min, output_max;
  };

  Linear linear_;
  std::optional<Limits> limits_;
};

// Angles of each patch: its column rotates one half of a head, its row the other.
struct Angles {
  Tensor columns, rows;  // fp32 [patches, head_dim / 4]

  Tensor rotate(const Tensor& x) const {
    const auto halves = x.chunk(2, -1);
    return at::cat({ops::rotated(halves[0], columns), ops::rotated(halves[1], rows)}, -1);
  }
};

class Attention {
 public:
  Attention(const Weights& w, const Config& c)
      : q_proj_(w / "q_proj", width(c), c.hidden, c.clipped),
        k_proj_(w / "k_proj", width(c), c.hidden, c.clipped),
        v_proj_(w / "v_proj", width(c), c.hidden, c.clipped),
        o_proj_(w / "o_proj", c.hidden, width(c), c.clipped),
        q_norm_(w.norm("q_norm", c.head_dim, c.eps)),
        k_norm_(w.norm("k_norm", c.head_dim, c.eps)),
        v_norm_(Tensor(), c.eps),
        head_dim_(c.head_dim) {}

  Tensor operator()(const Tensor& x, const Angles& angles) const {
    auto per_head = [&](const ClippableLinear& projection) {
      return projection(x).unflatten(-1, {-1, head_dim_});
    };
    Tensor q = angles.rotate(q_norm_(per_head(q_proj_)));
    Tensor k = angles.rotate(k_norm_(per_head(k_proj_)));
    Tensor v = v_norm_(per_head(v_proj_));
    return o_proj_(ops::patch_attention(q, k, v, /*scale=*/1.0).flatten(1));
  }

 private:
  static int64_t width(const Config& c) { return int64_t{c.heads} * c.head_dim; }

  ClippableLinear q_proj_, k_proj_, v_proj_, o_proj_;
  Norm q_norm_, k_norm_, v_norm_;
  int64_t head_dim_;
};

class VisionBlock {
 public:
  VisionBlock(const Weights& w, const Config& c)
      : input_layernorm_(w.norm("input_layernorm", c.hidden, c.eps)),
        self_attn_(w / "self_attn", c),
        post_attention_layernorm_(w.norm("post_attention_layernorm", c.hidden, c.eps)),
        pre_feedforward_layernorm_(w.norm("pre_feedforward_layernorm", c.hidden, c.eps)),
        gate_proj_(w / "mlp" / "gate_proj", c.inner, c.hidden, c.clipped),
        up_proj_(w / "mlp" / "up_proj", c.inner, c.hidden, c.clipped),
        down_proj_(w / "mlp" / "down_proj", c.hidden, c.inner, c.clipped),
        post_feedforward_layernorm_(w.norm("post_feedforward_layernorm", c.hidden, c.eps)) {}

  Tensor operator()(const Tensor& input, const Angles& angles) const {
    Tensor x = input + post_attention_layernorm_(self_attn_(input_layernorm_(input), angles));
    Tensor y = pre_feedforward_layernorm_(x);
    return x +
           post_feedforward_layernorm_(down_proj_(ops::gelu_tanh_mul(gate_proj_(y), up_proj_(y))));
  }

 private:
  Norm input_layernorm_;
  Attention self_attn_;
  Norm post_attention_layernorm_, pre_feedforward_layernorm_;
  ClippableLinear gate_proj_, up_proj_, down_proj_;
  Norm post_feedforward_layernorm_;
};

class Gemma4Vision : public Vision {
 public:
  Gemma4Vision(const Weights& model, const Config& c)
      : Gemma4Vision(model, model / "vision_tower", c) {}

  Tensor encode(const prompt::Patches& patches) const override {
    check_patches(patches, c_.patch_values(), c_.pooling);
    if (patches.rows > c_.positions || patches.columns > c_.positions)
      fail("a picture of {} x {} patches exceeds the {} positions of this model's vision tower",
           patches.columns, patches.rows, c_.positions);
    const Tensor patch = at::arange(patches.rows * patches.columns, at::kLong);
    const Tensor row = patch.floor_divide(patches.columns), column = patch % patches.columns;
    Tensor x = input_proj_(2 * (patches.values - 0.5)) + position_embedding_table_[0](column) +
               position_embedding_table_[1](row);
    const Angles angles{ops::axial_angles(column, c_.theta, c_.head_dim / 2),
                        ops::axial_angles(row, c_.theta, c_.head_dim / 2)};
    for (const VisionBlock& block : layers_) x = block(x, angles);
    return pooled(x, patches);
  }
  Tensor project(const Tensor& encoded) const override {
    return embedding_projection_(pre_projection_norm_(encoded));
  }

 private:
  Gemma4Vision(const Weights& model, const Weights& w, const Config& c)
      : c_(c),
        input_proj_(
            (w / "patch_embedder").linear("input_proj", c.hidden, c.patch_values(), Role::vision)),
        pre_projection_norm_(Tensor(), c.eps),
        embedding_projection_(
            (model / "embed_vision")
                .linear("embedding_projection", c.text_hidden, c.hidden, Role::vision)) {
    const Tensor tables =
        (w / "patch_embedder").tensor("position_embedding_table", {2, c.positions, c.hidden});
    for (int axis : {0, 1}) position_embedding_table_.emplace_back(tables[axis]);
    for (int i = 0; i < c.layers; ++i) layers_.emplace_back(w / "encoder" / "layers" / i, c);
    if (!c.standardized) return;
    std_bias_ = w.tensor("std_bias", {c.hidden});
    std_scale_ = w.tensor("std_scale", {c.hidden});
  }

  // Means over squares of patches: [patches, hidden] -> [soft tokens, hidden].
  Tensor pooled(const Tensor& x, const prompt::Patches& patches) const {
    Tensor mean =
        x.reshape({patches.soft_rows(), c_.pooling, patches.soft_columns(), c_.pooling, c_.hidden})
            .mean({1, 3})
            .flatten(0, 1) *
        std::sqrt(static_cast<double>(c_.hidden));
    return c_.standardized ? (mean - std_bias_) * std_scale_ : mean;
  }

  Config c_;
  Linear input_proj_;
  std::vector<Embedding> position_embedding_table_;  // for columns, for rows
  std::vector<VisionBlock> layers_;
  Tensor std_bias_, std_scale_;
  Norm pre_projection_norm_;
  Linear embedding_projection_;
};

}  // namespace

std::optional<Sight> gemma4_sight(const Json& config) {
  if (!config.has("vision_config")) return std::nullopt;
  const Json text = text_config(config);
  const Config c(Settings(config.at("vision_config")), text.get<int>("hidden_size", 2304));
  // In larger models the soft tokens of a picture see each other, which is not implemented; text
  // works.
  const std::string both_ways =
      text.has("use_bidirectional_attention") ? text.at("use_bidirectional_attention").path() : "";
  Sight sight;
  sight.tokens.image = config.get<int>("image_token_id", 258880);
  sight.tokens.before = {config.get<int>("boi_token_id", 255999)};
  sight.tokens.after = {config.get<int>("eoi_token_id", 258882)};
  sight.tower = [c, both_ways](const Weights& root) -> std::unique_ptr<Vision> {
    if (!both_ways.empty())
      fail("{} is not implemented, so quern cannot run this model with pictures", both_ways);
    const Weights model = root / "model";
    if (!model.has("embed_vision.embedding_projection.weight")) return nullptr;
    return std::make_unique<Gemma4Vision>(model, c);
  };
  return sight;
}

}  // namespace quern::models
