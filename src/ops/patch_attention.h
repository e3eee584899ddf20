// Softmax attention in which every patch of a picture sees every patch.
#pragma once

#include "tensor/tensor.h"

namespace quern::ops {

// q, k, v fp32 [patches, heads, width], with any strides between patches and heads -> [patches,
// heads, width]. scale multiplies the products. The largest buffer of each thread holds the scores
// of 128 patches for all patches. No gradients.
Tensor patch_attention(const Tensor& q, const Tensor& k, const Tensor& v, double scale);

}  // namespace quern::ops
