// Loops over one row of a weight (kernels/rows.h), by dtype.
#pragma once

#include <cstdint>

#include "kernels/rows.h"
#include "quant/element.h"
#include "tensor/tensor.h"

namespace quern::quant {

using kernels::Range;
using kernels::SquareSums;

// Rounds to the nearest number of `dtype` (bf16, fp16 or fp32), ties to even.
float round_to(DType dtype, float x);

// The smallest step above 1 in `dtype`: what an all-zero group has for a scale.
float epsilon(DType dtype);

// Widens `count` numbers of bf16, fp16 or fp32. False when one of them is NaN or infinite.
bool widen(const void* x, DType dtype, int64_t count, float* out);
// Rounds fp32 numbers to bf16, fp16 or fp32 at `out`.
void narrow(const float* x, int64_t count, DType dtype, void* out);

Range range_of(const float* x, int64_t count);
SquareSums square_sums(const float* x, const float* y, int64_t count);

// How a quotient becomes a code of an integer element: kernels::IntegerGrid, whose middle is the
// element's.
struct Encoding {
  float scale = 1;
  int zero = 0;
  bool add_zero_first = true;
  DType quotient_dtype = at::kFloat;  // the quotient is rounded to it
};
void encode_integers(const Element& element, const float* x, int64_t count,
                     const Encoding& encoding, uint8_t* codes);
// out = scale * (code - zero) in fp32.
void decode_integers(const uint8_t* codes, int64_t count, float scale, int zero, float* out);

void pack_nibbles(const uint8_t* codes, int64_t count, uint8_t* bytes);
void unpack_nibbles(const uint8_t* bytes, int64_t count, uint8_t* codes);

}  // namespace quern::quant
