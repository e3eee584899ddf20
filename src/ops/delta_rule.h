// The gated delta rule of linear attention (Yang et al., "Gated Delta Networks", 2024) and the
// causal convolution before it. A head keeps a state S [key width, value width]; for each token
//   S <- exp(g) S;  u = beta (v - S^T k);  S <- S + k u^T;  o = S^T q.
#pragma once

#include "ops/attention.h"
#include "tensor/tensor.h"

namespace quern::ops {

// Depthwise convolution over the sequence, then SiLU:
//   y[t, c] = silu(sum_j weight[c, j] x[t - taps + 1 + j, c])
// x fp32 [tokens, channels], weight fp32 [channels, taps]. `past`, if defined, holds the taps - 1
// inputs before the only sequence of `bounds` [taps - 1, channels]; otherwise they are zero.
// Gradients flow to x.
Tensor causal_conv_silu(const Tensor& x, const Tensor& weight, const Bounds& bounds,
                        const Tensor& past);

struct DeltaInputs {
  // [tokens, key heads, key width], as they leave the convolution: normalized and scaled inside.
  Tensor q, k;
  // [tokens, value heads, value width]; value head h uses key head h / (value heads / key heads).
  Tensor v;
  Tensor decay;  // g <= 0, [tokens, value heads]
  Tensor beta;   // [tokens, value heads]
};

// Whole sequences from a zero state, in chunks of 64 tokens: [tokens, value heads, value width].
// Gradients flow to all inputs.
Tensor delta_rule(const DeltaInputs& in, const Bounds& bounds);

// One sequence that goes on: reads and replaces `state` fp32 [value heads, key width, value width].
// One token runs the recurrence itself, more run in chunks.
Tensor delta_rule_step(const DeltaInputs& in, Tensor& state);

// The recurrence token by token: the definition that the chunks are tested against.
Tensor delta_rule_reference(const DeltaInputs& in, Tensor& state);

}  // namespace quern::ops
