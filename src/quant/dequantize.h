// From codes back to numbers, and how far they are from the weight that they stand for.
#pragma once

#include "quant/scheme.h"
#include "tensor/tensor.h"

namespace quern::quant {

// scale * (code - zero), computed in fp32 and rounded once to `dtype`; same shape as the weight.
Tensor dequantize(const QuantWeight& weight, DType dtype);

// |weight - dequantized| / |weight| (Frobenius norms, sums in fp64 in a fixed order; the
// dequantized numbers are not rounded). 0 when both are zero. weight: as for round_to_nearest.
double relative_error(const Tensor& weight, const QuantWeight& quantized);

}  // namespace quern::quant
