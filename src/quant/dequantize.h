// Turns codes back into numbers, and measures their error.
#pragma once

#include "quant/scheme.h"
#include "tensor/tensor.h"

namespace quern::quant {

// scale * (code - zero), computed in fp32 and rounded once to `dtype`; has the shape of the weight.
Tensor dequantize(const QuantWeight& weight, DType dtype);

// |weight - dequantized| / |weight| (Frobenius norms, sums in fp64 in a fixed order; the
// dequantized numbers are not rounded). 0 when both are zero. weight: as for round_to_nearest.
double relative_error(const Tensor& weight, const QuantWeight& quantized);

}  // namespace quern::quant
