// Loops over one row of a weight: to fp32, extremes of a group, codes, nibbles. They are compiled
// for several instruction sets and chosen when the program starts; all give the same bits, because
// each operation is rounded separately (no fused multiply-add, no reordered sums).
#pragma once

#include <cstdint>

#include "quant/element.h"
#include "tensor/tensor.h"

namespace quern::quant {

// Rounds to the nearest number of `dtype` (bf16, fp16 or fp32), ties to even.
float round_to(DType dtype, float x);

// The smallest step above 1 in `dtype`: the scale of an all-zero group.
float epsilon(DType dtype);

// Widens `count` numbers of bf16, fp16 or fp32. False when one is NaN or infinite.
bool widen(const void* x, DType dtype, int64_t count, float* out);

struct Range {
  float low = 0;   // <= 0
  float high = 0;  // >= 0
};
Range range_of(const float* x, int64_t count);

// How the quotient weight / scale becomes a code of an integer element of at most 8 bits, with n
// codes and middle m:
//   round(clamp(quotient + (zero - m), -m, m - 1)) + m  when the zero is added before rounding, in
//                                                       `quotient_dtype` (compressed-tensors);
//   clamp(round(quotient) + zero, 0, n - 1)             otherwise (AutoRound).
// Both are equal when zero is m.
struct Encoding {
  float scale = 1;
  int zero = 0;
  bool add_zero_first = true;
  DType quotient_dtype = at::kFloat;  // the quotient is rounded to it
};
void encode_integers(const Element& element, const float* x, int64_t count,
                     const Encoding& encoding, uint8_t* codes);

// Two codes per byte, the earlier code in the low nibble; the unused nibble of an odd row is 0.
void pack_nibbles(const uint8_t* codes, int64_t count, uint8_t* bytes);
void unpack_nibbles(const uint8_t* bytes, int64_t count, uint8_t* codes);

// out = scale * (code - zero) in fp32.
void decode_integers(const uint8_t* codes, int64_t count, float scale, int zero, float* out);

// Rounds fp32 numbers to bf16, fp16 or fp32 at `out`.
void narrow(const float* x, int64_t count, DType dtype, void* out);

// Sums in fp64, always in the same order.
struct SquareSums {
  double first = 0;       // sum of x^2
  double difference = 0;  // sum of (x - y)^2
};
SquareSums square_sums(const float* x, const float* y, int64_t count);

}  // namespace quern::quant
