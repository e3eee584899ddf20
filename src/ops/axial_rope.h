// Two-dimensional rotary position embedding of vision towers: some frequencies rotate by the row of
// a patch, the others by its column.
#pragma once

#include "tensor/tensor.h"

namespace quern::ops {

// places int64 [patches] -> fp32 [patches, width / 2]: place / theta^(2 j / width).
Tensor axial_angles(const Tensor& places, double theta, int64_t width);

// Rotates pairs (j, j + width / 2) of x fp32 [patches, heads, width] by angles [patches,
// width / 2].
Tensor rotated(const Tensor& x, const Tensor& angles);

}  // namespace quern::ops
