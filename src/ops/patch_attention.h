// Softmax attention in which every patch of a picture sees every other.
#pragma once

#include "tensor/tensor.h"

namespace quern::ops {

// q, k, v fp32 [patches, heads, width], strides between patches and heads as they come -> [patches,
// heads, width]. scale multiplies the products. The scores of 128 patches against all are the
// largest thing in memory, for each thread. No gradients.
Tensor patch_attention(const Tensor& q, const Tensor& k, const Tensor& v, double scale);

}  // namespace quern::ops
