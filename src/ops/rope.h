// Rotary position embedding (Su et al., 2021) in the variants of the supported models.
#pragma once

#include <vector>

#include "base/json.h"
#include "tensor/tensor.h"

namespace quern::ops {

class Rope {
 public:
  // Reads `rope_parameters` of a text config, or the older `rope_theta`, `rope_scaling` and
  // `partial_rotary_factor`. Fails on a rope type or scaling that is not implemented: ignoring one
  // would change the model.
  Rope(const Json& text_config, int64_t head_dim);

  // x fp32 [tokens, heads, head_dim]; positions int64 [tokens], or [3, tokens] with time, height
  // and width of each token where the model has interleaved sections. Rotates pairs (j, j + r / 2)
  // of the first r dimensions.
  Tensor operator()(const Tensor& x, const Tensor& positions) const;

 private:
  int64_t rotated_;     // r
  Tensor frequencies_;  // fp32 [r / 2]
  // Which of time, height, width turns frequency j; empty: positions have one axis.
  std::vector<int64_t> axis_of_;
};

}  // namespace quern::ops
