// Tensors as kernels read them: numbers of the last dimension one after another.
#pragma once

#include "tensor/tensor.h"

namespace quern::ops {

// x itself, or a copy where its last dimension is not dense. Strides of the others may be anything.
inline Tensor dense_rows(const Tensor& x) { return x.stride(-1) == 1 ? x : x.contiguous(); }

}  // namespace quern::ops
