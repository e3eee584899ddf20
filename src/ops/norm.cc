#include "ops/norm.h"

#include <cmath>

#include "kernels/kernels.h"
#include "ops/pieces.h"

namespace quern::ops {
namespace {

at::IntArrayRef row_shape(const Tensor& x) { return x.sizes().slice(1); }

// One pass over memory if no gradient is needed; the backward pass differentiates the formula.
Tensor normalized(const Tensor& x, double eps) {
  const int64_t width = x.size(-1);
  if (at::GradMode::is_enabled() || width % 16 != 0)
    return x * (x.square().mean(-1, /*keepdim=*/true) + eps).rsqrt();
  const Tensor rows = x.contiguous();
  Tensor y = at::empty(rows.sizes(), rows.options());
  const auto numbers = static_cast<float>(width);
  kernels::cpu_kernels().unit_rows(rows.const_data_ptr<float>(), rows.numel() / width, width, width,
                                   static_cast<float>(eps) * numbers, std::sqrt(numbers),
                                   y.data_ptr<float>());
  return y;
}

}  // namespace

Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps) {
  auto norm = [=](const std::vector<Tensor>& in) {
    Tensor y = normalized(in[0], eps);
    return weight.defined() ? y * weight : y;
  };
  return by_rows(norm, {x}, row_shape(x));
}

Tensor gated_rms_norm(const Tensor& x, const Tensor& gate, const Tensor& weight, double eps) {
  return by_rows(
      [=](const std::vector<Tensor>& in) {
        return normalized(in[0], eps) * weight * at::silu(in[1]);
      },
      {x, gate}, row_shape(x));
}

Tensor sigmoid(const Tensor& x) {
  return by_rows([](const std::vector<Tensor>& in) { return in[0].sigmoid(); }, {x}, row_shape(x));
}

Tensor softplus(const Tensor& x) {
  return by_rows([](const std::vector<Tensor>& in) { return at::softplus(in[0]); }, {x},
                 row_shape(x));
}

Tensor sigmoid_gate(const Tensor& x, const Tensor& gate) {
  // One gate per row: the bits of a row do not depend on the other rows, so x needs no padding.
  if (gate.size(-1) == 1 && !at::GradMode::is_enabled()) return x * ops::sigmoid(gate);
  return by_rows([](const std::vector<Tensor>& in) { return in[0] * in[1].sigmoid(); }, {x, gate},
                 row_shape(x));
}

Tensor silu_mul(const Tensor& gate, const Tensor& up) {
  return by_rows([](const std::vector<Tensor>& in) { return at::silu(in[0]) * in[1]; }, {gate, up},
                 row_shape(gate));
}

Tensor gelu_tanh_mul(const Tensor& gate, const Tensor& up) {
  return by_rows([](const std::vector<Tensor>& in) { return at::gelu(in[0], "tanh") * in[1]; },
                 {gate, up}, row_shape(gate));
}

Tensor soft_cap(const Tensor& x, double cap) {
  return by_rows([=](const std::vector<Tensor>& in) { return (in[0] / cap).tanh() * cap; }, {x},
                 row_shape(x));
}

}  // namespace quern::ops
