// Tensors as kernels read them: the last dimension is dense.
#pragma once

#include "tensor/tensor.h"

namespace quern::ops {

// x itself, or a copy if its last dimension is not dense. Other dimensions may have any stride.
inline Tensor dense_rows(const Tensor& x) { return x.stride(-1) == 1 ? x : x.contiguous(); }

}  // namespace quern::ops
