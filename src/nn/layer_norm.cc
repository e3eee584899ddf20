#include "nn/layer_norm.h"

#include "ops/pieces.h"

namespace quern::nn {

LayerNorm::LayerNorm(const Weights& weights, const std::string& name, int64_t width, double eps)
    : weight_((weights / name).tensor("weight", {width})),
      bias_((weights / name).tensor("bias", {width})),
      eps_(eps) {}

Tensor LayerNorm::operator()(const Tensor& x) const {
  return ops::by_rows(
      [this](const std::vector<Tensor>& in) {
        return at::layer_norm(in[0], weight_.sizes(), weight_, bias_, eps_);
      },
      {x}, x.sizes().slice(1));
}

}  // namespace quern::nn
