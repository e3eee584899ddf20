#include "ops/float_matrix.h"

#include "kernels/kernels.h"
#include "tensor/memory.h"

namespace quern::ops {

void float_product(const kernels::FloatProduct& product) {
  thread_local const auto scratch = allocate_bytes(kernels::kFloatScratch * sizeof(float));
  kernels::cpu_kernels().float_product(product, reinterpret_cast<float*>(scratch.get()));
}

}  // namespace quern::ops
