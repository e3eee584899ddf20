// The gated delta rule of linear attention (Yang et al., "Gated Delta Networks", 2024) and the
// causal convolution before it. A head keeps a state S [key width, value width]; for each token
//   S <- exp(g) S;  u = beta (v - S^T k);  S <- S + k u^T;  o = S^T q.
#pragma once

#include <span>

#include "ops/attention.h"
#include "tensor/tensor.h"

namespace quern::ops {

// Depthwise convolution over the sequence, then SiLU:
//   y[t, c] = silu(sum_j weight[c, j] x[t - taps + 1 + j, c])
// x fp32 [tokens, channels], weight fp32 [channels, taps]; zeros come before a sequence. Gradients
// flow to x.
Tensor causal_conv_silu(const Tensor& x, const Tensor& weight, const Bounds& bounds);

struct DeltaInputs {
  // [tokens, key heads, key width], as output by the convolution; the rule normalizes and scales
  // them.
  Tensor q, k;
  // [tokens, value heads, value width]; value head h uses key head h / (value heads / key heads).
  Tensor v;
  Tensor decay;  // g <= 0, [tokens, value heads]
  Tensor beta;   // [tokens, value heads]
};

// Added to |q|^2 and |k|^2 before the square root that normalizes q and k.
constexpr double kDeltaNormEps = 1e-6;

// Empty, or why heads of such widths are not supported. A model asks before it takes any weight.
std::string delta_refusal(int64_t key_width, int64_t value_width);

// Whole sequences from a zero state, in chunks of 64 tokens (kernels/delta_chunk.h): [tokens, value
// heads, value width]. Gradients flow to all inputs; the backward pass recomputes the chunks.
Tensor delta_rule(const DeltaInputs& in, const Bounds& bounds);

// One sequence of a pass that continues from the state in slot `slot` of the caches: its tokens are
// rows [first, first + tokens).
struct OngoingSequence {
  int64_t first, tokens;
  int64_t slot;
};

// causal_conv_silu for ongoing sequences. `past` fp32 [slots, taps - 1, channels] holds the inputs
// before the sequences, oldest first, and is updated.
Tensor causal_conv_silu_step(const Tensor& x, const Tensor& weight,
                             std::span<const OngoingSequence> sequences, Tensor& past);

// The recurrence, token by token: reads and replaces `states` fp32 [slots, value heads, key width,
// value width]. The result of a token depends only on its own sequence, not on how the sequence is
// cut into passes.
Tensor delta_rule_step(const DeltaInputs& in, std::span<const OngoingSequence> sequences,
                       Tensor& states);

// The plain recurrence of one sequence, the reference for tests of the other functions. `state`
// fp32 [value heads, key width, value width].
Tensor delta_rule_reference(const DeltaInputs& in, Tensor& state);

}  // namespace quern::ops
