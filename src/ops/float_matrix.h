// Products of fp32 matrices on the calling thread. Callers cut the work into tiles of fixed size
// and run them with parallel_for.
#pragma once

#include "kernels/float_matrix.h"

namespace quern::ops {

// c (+)= a b; kernels/float_matrix.h defines the order of the sums.
void float_product(const kernels::FloatProduct& product);

}  // namespace quern::ops
