// Norms and small functions of activations, one row per token, all in fp32.
#pragma once

#include "tensor/tensor.h"

namespace quern::ops {

// x / sqrt(mean(x^2) + eps) * weight over the last dimension; weight fp32 [width], or
// undefined for 1.
Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps);

// rms_norm(x) * silu(gate): the gated norm of the delta net. x, gate [tokens, heads, width].
Tensor gated_rms_norm(const Tensor& x, const Tensor& gate, const Tensor& weight, double eps);

Tensor sigmoid(const Tensor& x);
Tensor softplus(const Tensor& x);

// x * sigmoid(gate), equal shapes; or gate [tokens, 1] for one factor per token.
Tensor sigmoid_gate(const Tensor& x, const Tensor& gate);

// silu(gate) * up, the activation of a gated MLP.
Tensor silu_mul(const Tensor& gate, const Tensor& up);

// gelu(gate) * up with GELU's tanh approximation (transformers' gelu_pytorch_tanh).
Tensor gelu_tanh_mul(const Tensor& gate, const Tensor& up);

// cap * tanh(x / cap): all values stay in (-cap, cap).
Tensor soft_cap(const Tensor& x, double cap);

}  // namespace quern::ops
