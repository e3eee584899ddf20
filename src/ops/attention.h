// Softmax attention over concatenated sequences, with grouped key/value heads: causal, or between
// all patches of a picture.
#pragma once

#include <vector>

#include "tensor/tensor.h"

namespace quern::ops {

// The start of each sequence in a batch, and the end of the last: sequence s has tokens [bounds[s],
// bounds[s + 1]).
using Bounds = std::vector<int64_t>;

// q fp32 [tokens, heads, width]; k, v fp32 [tokens, kv_heads, width] -> [tokens, heads, width].
// Query head h reads key/value head h / (heads / kv_heads). scale multiplies the products. A query
// sees the latest `window` keys up to its own (0: all); time and memory are proportional to the
// visible keys. Gradients flow to those of q, k and v that require them.
Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const Bounds& bounds,
                 double scale, int64_t window = 0);

// Every patch of a picture sees every other. q, k, v fp32 [patches, heads, width] -> the same
// shape. scale multiplies the products. The largest things in memory are the scores of 128 patches
// against all, one such matrix for each thread. No gradients.
Tensor patch_attention(const Tensor& q, const Tensor& k, const Tensor& v, double scale);

}  // namespace quern::ops
