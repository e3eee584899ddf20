// Rotary position embedding (Su et al., 2021) in the variants of the supported models; formulas as
// in transformers' modeling_rope_utils.py.
#pragma once

#include <vector>

#include "base/json.h"
#include "tensor/tensor.h"

namespace quern::ops {

// An architecture's defaults for settings that its config.json omits.
struct RopeDefaults {
  double theta = 10000;
  double partial = 1;                  // partial_rotary_factor
  int64_t positions = 0;               // max_position_embeddings
  std::vector<int64_t> sections = {};  // mrope_section; empty: positions have one axis
};

class Rope {
 public:
  // Reads `rope_parameters` of a text config, or the older `rope_theta`, `rope_scaling` and
  // `partial_rotary_factor`. Fails on a rope type or setting that is not implemented, because
  // ignoring it would change the model.
  Rope(const Json& text_config, int64_t head_dim, const RopeDefaults& defaults = {});
  // For a config with one set of parameters for each type of layer.
  Rope(const Json& text_config, const std::string& layer_type, int64_t head_dim);

  // x fp32 [tokens, heads, head_dim]; positions int64 [tokens], or [3, tokens] (time, height,
  // width) if the model has interleaved sections. Rotates pairs (j, j + r / 2) of the first r
  // dimensions.
  Tensor operator()(const Tensor& x, const Tensor& positions) const;

  const Tensor& frequencies() const { return frequencies_; }  // fp32 [r / 2]
  double magnitude() const { return magnitude_; }             // YaRN's factor of the result

 private:
  void read(const Json& parameters, int64_t head_dim, const RopeDefaults& defaults);

  int64_t rotated_ = 0;  // r
  Tensor frequencies_;
  double magnitude_ = 1;
  // The axis (time, height, width) that rotates frequency j; empty: positions have one axis.
  std::vector<int64_t> axis_of_;
};

}  // namespace quern::ops
