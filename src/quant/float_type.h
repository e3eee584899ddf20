// The kernels' enumerator for a LibTorch dtype.
#pragma once

#include "base/error.h"
#include "kernels/floats.h"
#include "tensor/tensor.h"

namespace quern::quant {

// bf16, fp16 or fp32.
inline kernels::FloatType float_type(DType dtype) {
  if (dtype == at::kBFloat16) return kernels::FloatType::bf16;
  if (dtype == at::kHalf) return kernels::FloatType::fp16;
  QUERN_CHECK(dtype == at::kFloat);
  return kernels::FloatType::fp32;
}

}  // namespace quern::quant
