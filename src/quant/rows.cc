#include "quant/rows.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "base/error.h"

// Compiles one body for AVX-512, AVX2 and the baseline.
#define QUERN_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#define QUERN_INLINE inline __attribute__((always_inline))

namespace quern::quant {
namespace {

constexpr uint32_t kSign = 0x80000000u;
constexpr uint32_t kExponent = 0x7f800000u;
// 1.5 * 2^23: adding it to a small number leaves that number, rounded half to even, in the low bits
// of the sum.
constexpr float kShift = 12582912.0f;

QUERN_INLINE float from_bf16(uint16_t x) { return std::bit_cast<float>(uint32_t{x} << 16); }

QUERN_INLINE float to_bf16(float x) {
  uint32_t bits = std::bit_cast<uint32_t>(x);
  return std::bit_cast<float>((bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000u);
}

// Rounds to fp16 without branches: numbers below 2^-14 are rounded by an addition that keeps 10
// bits, the others in their bits; numbers above the range become infinite.
QUERN_INLINE float to_fp16(float x) {
  uint32_t sign = std::bit_cast<uint32_t>(x) & kSign;
  uint32_t bits = std::bit_cast<uint32_t>(x) & ~kSign;
  uint32_t normal = (bits + 0xfff + ((bits >> 13) & 1)) & 0xffffe000u;
  normal = normal > 0x477fe000u ? kExponent : normal;
  float small = (std::bit_cast<float>(bits) + 0.5f) - 0.5f;  // 0.5 has its last bit at 2^-24
  uint32_t rounded = bits < 0x38800000u ? std::bit_cast<uint32_t>(small) : normal;
  return std::bit_cast<float>(rounded | sign);
}

enum class Rounding { none, bf16, fp16 };

template <Rounding rounding>
QUERN_INLINE float rounded(float x) {
  if constexpr (rounding == Rounding::bf16) return to_bf16(x);
  if constexpr (rounding == Rounding::fp16) return to_fp16(x);
  return x;
}

QUERN_INLINE float clamp(float x, float low, float high) {
  x = x < low ? low : x;
  return x > high ? high : x;
}

QUERN_INLINE int32_t nearest(float x) {
  return std::bit_cast<int32_t>(x + kShift) - std::bit_cast<int32_t>(kShift);
}

template <Rounding rounding>
QUERN_INLINE void encode_first(const float* x, int64_t count, float scale, float zero, int middle,
                               uint8_t* codes) {
  const auto low = static_cast<float>(-middle), high = static_cast<float>(middle - 1);
  for (int64_t i = 0; i < count; ++i) {
    float quotient = rounded<rounding>(rounded<rounding>(x[i] / scale) + zero);
    codes[i] = static_cast<uint8_t>(nearest(clamp(quotient, low, high)) + middle);
  }
}

QUERN_CLONES void encode_fp32(const float* x, int64_t count, float scale, float zero, int middle,
                              uint8_t* codes) {
  encode_first<Rounding::none>(x, count, scale, zero, middle, codes);
}

QUERN_CLONES void encode_bf16(const float* x, int64_t count, float scale, float zero, int middle,
                              uint8_t* codes) {
  encode_first<Rounding::bf16>(x, count, scale, zero, middle, codes);
}

QUERN_CLONES void encode_fp16(const float* x, int64_t count, float scale, float zero, int middle,
                              uint8_t* codes) {
  encode_first<Rounding::fp16>(x, count, scale, zero, middle, codes);
}

// A valid quotient is at most a few times the number of codes; the clamp keeps an invalid one in
// the range of `nearest`.
template <Rounding rounding>
QUERN_INLINE void encode_after(const float* x, int64_t count, float scale, int zero, int highest,
                               uint8_t* codes) {
  for (int64_t i = 0; i < count; ++i) {
    int32_t code = nearest(clamp(rounded<rounding>(x[i] / scale), -1000, 1000)) + zero;
    code = code < 0 ? 0 : code;
    codes[i] = static_cast<uint8_t>(code > highest ? highest : code);
  }
}

QUERN_CLONES void encode_after_fp32(const float* x, int64_t count, float scale, int zero,
                                    int highest, uint8_t* codes) {
  encode_after<Rounding::none>(x, count, scale, zero, highest, codes);
}

QUERN_CLONES void encode_after_bf16(const float* x, int64_t count, float scale, int zero,
                                    int highest, uint8_t* codes) {
  encode_after<Rounding::bf16>(x, count, scale, zero, highest, codes);
}

QUERN_CLONES void encode_after_fp16(const float* x, int64_t count, float scale, int zero,
                                    int highest, uint8_t* codes) {
  encode_after<Rounding::fp16>(x, count, scale, zero, highest, codes);
}

QUERN_CLONES bool widen_bf16(const uint16_t* x, int64_t count, float* out) {
  uint32_t bad = 0;
  for (int64_t i = 0; i < count; ++i) {
    out[i] = from_bf16(x[i]);
    bad |= (x[i] & 0x7f80u) == 0x7f80u;
  }
  return bad == 0;
}

QUERN_CLONES bool widen_fp32(const float* x, int64_t count, float* out) {
  uint32_t bad = 0;
  for (int64_t i = 0; i < count; ++i) {
    out[i] = x[i];
    bad |= (std::bit_cast<uint32_t>(x[i]) & kExponent) == kExponent;
  }
  return bad == 0;
}

bool widen_fp16(const at::Half* x, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = x[i];
  return widen_fp32(out, count, out);
}

// Positive floats have the order of their bits as integers, and negative ones become positive when
// the sign is flipped. The result is two integer maxima, which compilers may vectorise, unlike
// float maxima.
QUERN_CLONES void extremes(const float* x, int64_t count, int32_t* positive, int32_t* negative) {
  int32_t above = 0, below = 0;
  for (int64_t i = 0; i < count; ++i) {
    int32_t bits = std::bit_cast<int32_t>(x[i]);
    int32_t flipped = std::bit_cast<int32_t>(std::bit_cast<uint32_t>(x[i]) ^ kSign);
    above = bits > above ? bits : above;
    below = flipped > below ? flipped : below;
  }
  *positive = above;
  *negative = below;
}

QUERN_CLONES void pack_pairs(const uint8_t* codes, int64_t pairs, uint8_t* bytes) {
  for (int64_t i = 0; i < pairs; ++i) {
    bytes[i] = static_cast<uint8_t>(codes[2 * i] | (codes[2 * i + 1] << 4));
  }
}

QUERN_CLONES void unpack_pairs(const uint8_t* bytes, int64_t pairs, uint8_t* codes) {
  for (int64_t i = 0; i < pairs; ++i) {
    codes[2 * i] = bytes[i] & 15;
    codes[2 * i + 1] = bytes[i] >> 4;
  }
}

QUERN_CLONES void narrow_to_bf16(const float* x, int64_t count, uint16_t* out) {
  for (int64_t i = 0; i < count; ++i) {
    out[i] = static_cast<uint16_t>(std::bit_cast<uint32_t>(to_bf16(x[i])) >> 16);
  }
}

// Eight interleaved sums: vectors of any width add in this order.
constexpr int kLanes = 8;

QUERN_CLONES void add_squares(const float* x, const float* y, int64_t count, double* first,
                              double* difference) {
  for (int64_t i = 0; i + kLanes <= count; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      double a = x[i + lane], b = a - y[i + lane];
      first[lane] += a * a;
      difference[lane] += b * b;
    }
  }
}

}  // namespace

float round_to(DType dtype, float x) {
  if (dtype == at::kBFloat16) return to_bf16(x);
  if (dtype == at::kHalf) return to_fp16(x);
  QUERN_CHECK(dtype == at::kFloat);
  return x;
}

float epsilon(DType dtype) {
  if (dtype == at::kBFloat16) return 0x1p-7f;
  if (dtype == at::kHalf) return 0x1p-10f;
  return std::numeric_limits<float>::epsilon();
}

bool widen(const void* x, DType dtype, int64_t count, float* out) {
  if (dtype == at::kBFloat16) return widen_bf16(static_cast<const uint16_t*>(x), count, out);
  if (dtype == at::kHalf) return widen_fp16(static_cast<const at::Half*>(x), count, out);
  QUERN_CHECK(dtype == at::kFloat);
  return widen_fp32(static_cast<const float*>(x), count, out);
}

Range range_of(const float* x, int64_t count) {
  int32_t positive = 0, negative = 0;
  extremes(x, count, &positive, &negative);
  return {.low = -std::bit_cast<float>(negative), .high = std::bit_cast<float>(positive)};
}

void encode_integers(const Element& element, const float* x, int64_t count,
                     const Encoding& encoding, uint8_t* codes) {
  bool bf16 = encoding.quotient_dtype == at::kBFloat16, fp16 = encoding.quotient_dtype == at::kHalf;
  if (encoding.add_zero_first) {
    auto run = bf16 ? encode_bf16 : fp16 ? encode_fp16 : encode_fp32;
    run(x, count, encoding.scale, static_cast<float>(encoding.zero - element.middle()),
        element.middle(), codes);
  } else {
    auto run = bf16 ? encode_after_bf16 : fp16 ? encode_after_fp16 : encode_after_fp32;
    run(x, count, encoding.scale, encoding.zero, element.codes() - 1, codes);
  }
}

void pack_nibbles(const uint8_t* codes, int64_t count, uint8_t* bytes) {
  pack_pairs(codes, count / 2, bytes);
  if (count % 2 != 0) bytes[count / 2] = codes[count - 1];
}

void unpack_nibbles(const uint8_t* bytes, int64_t count, uint8_t* codes) {
  unpack_pairs(bytes, count / 2, codes);
  if (count % 2 != 0) codes[count - 1] = bytes[count / 2] & 15;
}

QUERN_CLONES void decode_integers(const uint8_t* codes, int64_t count, float scale, int zero,
                                  float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = scale * static_cast<float>(codes[i] - zero);
}

void narrow(const float* x, int64_t count, DType dtype, void* out) {
  if (dtype == at::kBFloat16) return narrow_to_bf16(x, count, static_cast<uint16_t*>(out));
  if (dtype == at::kHalf) {
    for (int64_t i = 0; i < count; ++i) static_cast<at::Half*>(out)[i] = x[i];
    return;
  }
  QUERN_CHECK(dtype == at::kFloat);
  std::copy_n(x, count, static_cast<float*>(out));
}

SquareSums square_sums(const float* x, const float* y, int64_t count) {
  double first[kLanes] = {}, difference[kLanes] = {};
  add_squares(x, y, count, first, difference);
  SquareSums sums;
  for (int lane = 0; lane < kLanes; ++lane) {
    sums.first += first[lane];
    sums.difference += difference[lane];
  }
  for (int64_t i = count - count % kLanes; i < count; ++i) {
    double a = x[i], b = a - y[i];
    sums.first += a * a;
    sums.difference += b * b;
  }
  return sums;
}

}  // namespace quern::quant
