// Large memory that costs nothing until it is touched.
#pragma once

#include "tensor/tensor.h"

namespace quern::ops {

// Zeros. The pages come from the system when they are first written, and huge ones if it has them.
// Fails with Exit::memory when the system refuses.
Tensor zero_pages(at::IntArrayRef shape, DType dtype);

}  // namespace quern::ops
