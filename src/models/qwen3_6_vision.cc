// Qwen3.6's vision tower: patches with a learned table of positions, interpolated to the size of
// the picture; blocks with full attention between all patches; and a merger that makes one soft
// token from each square of patches. Members carry their Hugging Face names. After transformers'
// modeling_qwen3_5_moe.py.

#include <cmath>

#include "base/error.h"
#include "models/vision.h"
#include "nn/layer_norm.h"
#include "nn/nn.h"
#include "ops/attention.h"
#include "ops/axial_rope.h"
#include "ops/pieces.h"

namespace quern::models {
namespace {

using namespace nn;

constexpr double kEps = 1e-6;  // fixed in the reference
// Defaults after transformers' configuration_qwen3_5_moe.py.
struct Config {
  explicit Config(const Settings& c)
      : depth(c.get("depth", 27)),
        hidden(c.get("hidden_size", 1152)),
        inner(c.get("intermediate_size", 4304)),
        heads(c.get("num_heads", 16)),
        channels(c.get("in_channels", 3)),
        patch(c.get("patch_size", 16)),
        frames(c.get("temporal_patch_size", 2)),
        merge(c.get("spatial_merge_size", 2)),
        positions(c.get("num_position_embeddings", 2304)),
        out(c.get("out_hidden_size", 3584)),
        theta(axial_theta(c, 10000)) {
    c.only("hidden_act", {"\"gelu_pytorch_tanh\""});
    c.only("deepstack_visual_indexes", {"[]"});
    c.refuse_unread();
    if (heads < 1 || hidden % heads != 0 || hidden / heads % 4 != 0)
      fail("{}: hidden_size {} does not divide into {} heads of a multiple of 4", c.path(), hidden,
           heads);
    if (depth < 1 || patch < 1 || frames < 1 || merge < 1 || side() * side() != positions)
      fail(
          "{}: depth, patch_size, temporal_patch_size and spatial_merge_size must be positive, "
          "and num_position_embeddings a square",
          c.path());
  }

  int side() const { return static_cast<int>(std::lround(std::sqrt(positions))); }
  int64_t patch_values() const { return int64_t{channels} * frames * patch * patch; }

  int depth, hidden, inner, heads, channels, patch, frames, merge, positions, out;
  double theta;
};

// The places of patches in the order of the image processor, one square after another.
struct Places {
  Places(const prompt::Patches& patches, int64_t merge)
      : rows(spread(at::arange(patches.rows, at::kLong).reshape({-1, 1, merge, 1}), patches)),
        columns(
            spread(at::arange(patches.columns, at::kLong).reshape({1, -1, 1, merge}), patches)) {}

  static Tensor spread(const Tensor& line, const prompt::Patches& patches) {
    const int64_t merge = patches.merge;
    return line.expand({patches.rows / merge, patches.columns / merge, merge, merge}).reshape(-1);
  }

  Tensor rows, columns;  // int64 [patches]
};

Tensor gelu(const Tensor& x, const char* form) {
  return ops::by_rows([=](const std::vector<Tensor>& in) { return at::gelu(in[0], form); }, {x},
                      x.sizes().slice(1));
}

class Attention {
 public:
  Attention(const Weights& w, const Config& c)
      : qkv_(w.linear("qkv", 3 * c.hidden, c.hidden, Role::vision, Bias::present)),
        proj_(w.linear("proj", c.hidden, c.hidden, Role::vision, Bias::present)),
        heads_(c.heads),
        scale_(1 / std::sqrt(static_cast<double>(c.hidden / c.heads))) {}

  Tensor operator()(const Tensor& x, const Tensor& angles) const {
    const auto parts = qkv_(x).unflatten(-1, {3, heads_, -1}).unbind(1);
    Tensor q = ops::rotated(parts[0], angles), k = ops::rotated(parts[1], angles);
    return proj_(ops::patch_attention(q, k, parts[2], scale_).flatten(1));
  }

 private:
  Linear qkv_, proj_;
  int64_t heads_;
  double scale_;
};

class VisionBlock {
 public:
  VisionBlock(const Weights& w, const Config& c)
      : norm1_(w, "norm1", c.hidden, kEps),
        attn_(w / "attn", c),
        norm2_(w, "norm2", c.hidden, kEps),
        linear_fc1_(
            (w / "mlp").linear("linear_fc1", c.inner, c.hidden, Role::vision, Bias::present)),
        linear_fc2_(
            (w / "mlp").linear("linear_fc2", c.hidden, c.inner, Role::vision, Bias::present)) {}

  Tensor operator()(const Tensor& input, const Tensor& angles) const {
    Tensor x = input + attn_(norm1_(input), angles);
    return x + linear_fc2_(gelu(linear_fc1_(norm2_(x)), "tanh"));
  }

 private:
  LayerNorm norm1_;
  Attention attn_;
  LayerNorm norm2_;
  Linear linear_fc1_, linear_fc2_;
};

class Merger {
 public:
  Merger(const Weights& w, const Config& c)
      : norm_(w, "norm", c.hidden, kEps),
        square_(int64_t{c.merge} * c.merge * c.hidden),
        linear_fc1_(w.linear("linear_fc1", square_, square_, Role::vision, Bias::present)),
        linear_fc2_(w.linear("linear_fc2", c.out, square_, Role::vision, Bias::present)) {}

  Tensor operator()(const Tensor& x) const {
    return linear_fc2_(gelu(linear_fc1_(norm_(x).reshape({-1, square_})), "none"));
  }

 private:
  LayerNorm norm_;
  int64_t square_;  // values in a square of patches
  Linear linear_fc1_, linear_fc2_;
};

class Qwen36Vision : public Vision {
 public:
  Qwen36Vision(const Weights& w, const Config& c)
      : c_(c),
        patch_embed_(patch_embedding(w / "patch_embed", c)),
        pos_embed_(w.embedding("pos_embed", c.positions, c.hidden)),
        merger_(w / "merger", c) {
    for (int i = 0; i < c.depth; ++i) blocks_.emplace_back(w / "blocks" / i, c);
  }

  Tensor encode(const prompt::Patches& patches) const override {
    check_patches(patches, c_.patch_values(), c_.merge);
    const Places places(patches, c_.merge);
    Tensor x = patch_embed_(patches.values) + positions(places, patches);
    const int64_t width = c_.hidden / c_.heads;
    const Tensor angles = at::cat({ops::axial_angles(places.rows, c_.theta, width / 2),
                                   ops::axial_angles(places.columns, c_.theta, width / 2)},
                                  -1);
    for (const VisionBlock& block : blocks_) x = block(x, angles);
    return x;
  }
  Tensor project(const Tensor& encoded) const override { return merger_(encoded); }

 private:
  // A convolution with windows that do not overlap is a matrix product.
  static Linear patch_embedding(const Weights& w, const Config& c) {
    Tensor filter =
        w.tensor("proj.weight", {c.hidden, c.channels, c.frames, c.patch, c.patch}).flatten(1);
    auto stack = std::make_shared<ops::DenseStack>(std::vector<Tensor>{std::move(filter)});
    return Linear(Weight(w.path("proj"), std::move(stack)), w.tensor("proj.bias", {c.hidden}));
  }

  // Along one side: the two entries of the table next to a patch, and its distance from the first.
  struct Between {
    Between(const Tensor& index, int64_t count, int64_t side) {
      const Tensor place = index.to(at::kFloat) * static_cast<double>(side - 1) /
                           static_cast<double>(std::max<int64_t>(count - 1, 1));
      first = place.floor().to(at::kLong);
      second = (first + 1).clamp_max(side - 1);
      share = (place - place.floor()).unsqueeze(1);
    }
    Tensor first, second, share;
  };

  // Bilinear interpolation; the corners of the table are the corners of the picture.
  Tensor positions(const Places& places, const prompt::Patches& patches) const {
    const int64_t side = c_.side();
    const Between row(places.rows, patches.rows, side);
    const Between column(places.columns, patches.columns, side);
    auto along = [&](const Tensor& table_row) {
      return pos_embed_(table_row * side + column.first) * (1 - column.share) +
             pos_embed_(table_row * side + column.second) * column.share;
    };
    return along(row.first) * (1 - row.share) + along(row.second) * row.share;
  }

  Config c_;
  Linear patch_embed_;
  Embedding pos_embed_;
  std::vector<VisionBlock> blocks_;
  Merger merger_;
};

}  // namespace

std::optional<Sight> qwen3_6_sight(const Json& config) {
  if (!config.has("vision_config")) return std::nullopt;
  const Config c(Settings(config.at("vision_config")));
  Sight sight;
  sight.tokens.image = config.get<int>("image_token_id", 248056);
  sight.tokens.by_grid = true;
  sight.tower = [c](const Weights& root) -> std::unique_ptr<Vision> {
    const Weights w = root / "model" / "visual";
    if (!w.has("patch_embed.proj.weight")) return nullptr;
    return std::make_unique<Qwen36Vision>(w, c);
  };
  return sight;
}

}  // namespace quern::models
