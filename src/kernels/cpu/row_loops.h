// The kernels of rows.h as plain loops, which the compiler turns into vectors of each instruction
// set. Everything has internal linkage: the linker must never hand one file's copy to another.
#pragma once

#include <algorithm>

#include "kernels/rows.h"

namespace quern::kernels {
namespace {

// 1.5 * 2^23: adding it leaves a small number, rounded half to even, in the low bits of the sum.
constexpr float kShift = 12582912.0f;

inline int32_t nearest(float x) {
  return static_cast<int32_t>(bits_from_float(x + kShift) - bits_from_float(kShift));
}

inline float clamp(float x, float low, float high) {
  x = x < low ? low : x;
  return x > high ? high : x;
}

template <FloatType type>
void encode_zero_first(const IntegerGrid& grid, const float* x, int64_t count, uint8_t* codes) {
  const float scale = grid.scale, zero = static_cast<float>(grid.zero - grid.middle),
              low = static_cast<float>(-grid.middle), high = static_cast<float>(grid.middle - 1);
  const int middle = grid.middle;
  for (int64_t i = 0; i < count; ++i) {
    const float quotient = round_to(type, round_to(type, x[i] / scale) + zero);
    codes[i] = static_cast<uint8_t>(nearest(clamp(quotient, low, high)) + middle);
  }
}

// The quotient is at most a few times the number of codes; the clamp keeps garbage within reach of
// `nearest`.
template <FloatType type>
void encode_zero_last(const IntegerGrid& grid, const float* x, int64_t count, uint8_t* codes) {
  const float scale = grid.scale;
  const int32_t zero = grid.zero, highest = 2 * grid.middle - 1;
  for (int64_t i = 0; i < count; ++i) {
    int32_t code = nearest(clamp(round_to(type, x[i] / scale), -1000, 1000)) + zero;
    code = code < 0 ? 0 : code;
    codes[i] = static_cast<uint8_t>(code > highest ? highest : code);
  }
}

template <FloatType type>
void encode_as(const IntegerGrid& grid, const float* x, int64_t count, uint8_t* codes) {
  if (grid.add_zero_first)
    encode_zero_first<type>(grid, x, count, codes);
  else
    encode_zero_last<type>(grid, x, count, codes);
}

template <FloatType type>
void narrow_to(const float* x, int64_t count, void* out) {
  for (int64_t i = 0; i < count; ++i) store_float(type, out, i, x[i]);
}

struct RowLoops {
  static bool all_finite(const float* x, int64_t count) {
    uint32_t bad = 0;
    for (int64_t i = 0; i < count; ++i)
      bad |= (bits_from_float(x[i]) & 0x7f800000u) == 0x7f800000u ? 1u : 0u;
    return bad == 0;
  }

  // As integers, positive numbers are ordered like their bits, and negative ones become positive by
  // flipping the sign: two integer maxima, which compilers vectorise where they may not for floats.
  static Range range(const float* x, int64_t count) {
    int32_t above = 0, below = 0;
    for (int64_t i = 0; i < count; ++i) {
      const uint32_t bits = bits_from_float(x[i]);
      above = std::max(above, static_cast<int32_t>(bits));
      below = std::max(below, static_cast<int32_t>(bits ^ 0x80000000u));
    }
    return {-float_from_bits(static_cast<uint32_t>(below)),
            float_from_bits(static_cast<uint32_t>(above))};
  }

  static void encode(const IntegerGrid& grid, const float* x, int64_t count, uint8_t* codes) {
    switch (grid.quotient_type) {
      case FloatType::bf16:
        return encode_as<FloatType::bf16>(grid, x, count, codes);
      case FloatType::fp16:
        return encode_as<FloatType::fp16>(grid, x, count, codes);
      case FloatType::fp32:
        return encode_as<FloatType::fp32>(grid, x, count, codes);
    }
  }

  static void decode(const uint8_t* codes, int64_t count, float scale, int zero, float* out) {
    for (int64_t i = 0; i < count; ++i) out[i] = scale * static_cast<float>(codes[i] - zero);
  }

  static void pack_nibbles(const uint8_t* codes, int64_t count, uint8_t* bytes) {
    for (int64_t i = 0; i < count / 2; ++i)
      bytes[i] = static_cast<uint8_t>(codes[2 * i] | codes[2 * i + 1] << 4);
    if (count % 2 != 0) bytes[count / 2] = codes[count - 1];
  }

  static void unpack_nibbles(const uint8_t* bytes, int64_t count, uint8_t* codes) {
    for (int64_t i = 0; i < count / 2; ++i) {
      codes[2 * i] = bytes[i] & 15;
      codes[2 * i + 1] = bytes[i] >> 4;
    }
    if (count % 2 != 0) codes[count - 1] = bytes[count / 2] & 15;
  }

  static void narrow(FloatType type, const float* x, int64_t count, void* out) {
    switch (type) {
      case FloatType::bf16:
        return narrow_to<FloatType::bf16>(x, count, out);
      case FloatType::fp16:
        return narrow_to<FloatType::fp16>(x, count, out);
      case FloatType::fp32:
        std::copy_n(x, count, static_cast<float*>(out));
    }
  }

  // Eight sums side by side: vectors of any width add in this order.
  static SquareSums square_sums(const float* x, const float* y, int64_t count) {
    constexpr int kLanes = 8;
    double first[kLanes] = {}, difference[kLanes] = {};
    const int64_t whole = count - count % kLanes;
    for (int64_t i = 0; i < whole; i += kLanes) {
      for (int lane = 0; lane < kLanes; ++lane) {
        const double a = x[i + lane], b = a - y[i + lane];
        first[lane] += a * a;
        difference[lane] += b * b;
      }
    }
    SquareSums sums;
    for (int lane = 0; lane < kLanes; ++lane) {
      sums.first += first[lane];
      sums.difference += difference[lane];
    }
    for (int64_t i = whole; i < count; ++i) {
      const double a = x[i], b = a - y[i];
      sums.first += a * a;
      sums.difference += b * b;
    }
    return sums;
  }

  static constexpr RowKernels kTable = {all_finite,   range,          encode, decode,
                                        pack_nibbles, unpack_nibbles, narrow, square_sums};
};

}  // namespace
}  // namespace quern::kernels
