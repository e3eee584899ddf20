// Loops over one row of a stored weight: codes of integer elements, extremes, conversions. Each
// operation is rounded on its own and sums have one order, so that all tables give the same bits.
#pragma once

#include <cstdint>

#include "kernels/floats.h"

namespace quern::kernels {

struct Range {
  float low = 0;   // <= 0
  float high = 0;  // >= 0
};

// How the quotient x / scale becomes a code of at most 8 bits, with n codes and the middle m = n /
// 2:
//   round(clamp(quotient + (zero - m), -m, m - 1)) + m  when the zero is added before rounding, in
//                                                       `quotient_type` (compressed-tensors);
//   clamp(round(quotient) + zero, 0, n - 1)             otherwise (AutoRound).
// Both are the same when zero is m.
struct IntegerGrid {
  float scale = 1;
  int zero = 0, middle = 8;
  bool add_zero_first = true;
  FloatType quotient_type = FloatType::fp32;  // the quotient is rounded to it
};

// Of x: sum of x^2; of x and y: sum of (x - y)^2.
struct SquareSums {
  double first = 0, difference = 0;
};

struct RowKernels {
  bool (*all_finite)(const float* x, int64_t count);
  // Over x and 0. x is finite.
  Range (*range)(const float* x, int64_t count);
  // Codes, one a byte.
  void (*encode)(const IntegerGrid& grid, const float* x, int64_t count, uint8_t* codes);
  // out = scale * (code - zero)
  void (*decode)(const uint8_t* codes, int64_t count, float scale, int zero, float* out);
  // Two codes a byte, the earlier one in the low nibble; the spare nibble of an odd row is 0.
  void (*pack_nibbles)(const uint8_t* codes, int64_t count, uint8_t* bytes);
  void (*unpack_nibbles)(const uint8_t* bytes, int64_t count, uint8_t* codes);
  // Rounded half to even.
  void (*narrow)(FloatType type, const float* x, int64_t count, void* out);
  SquareSums (*square_sums)(const float* x, const float* y, int64_t count);
};

}  // namespace quern::kernels
