// The norm of vision towers: normalizes to mean 0 and variance 1, then applies a weight and a bias.
#pragma once

#include "nn/weights.h"

namespace quern::nn {

class LayerNorm {
 public:
  // `name`.weight and `name`.bias, [width].
  LayerNorm(const Weights& weights, const std::string& name, int64_t width, double eps);
  // fp32 [rows, width] -> [rows, width].
  Tensor operator()(const Tensor& x) const;

 private:
  Tensor weight_, bias_;
  double eps_;
};

}  // namespace quern::nn
