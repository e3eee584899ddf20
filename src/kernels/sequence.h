// Generation needs, in addition to products, attention over cached keys and values, and the
// recurrence of linear attention with the convolution before it. The result of a token depends only
// on its own sequence, not on the number of tokens in one call or on other sequences.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/floats.h"

namespace quern::kernels {

enum class KvType : uint8_t { fp32, bf16, fp16, fp8_e4m3 };

constexpr int64_t kv_bytes(KvType type) {
  return type == KvType::fp32 ? 4 : type == KvType::fp8_e4m3 ? 1 : 2;
}

// A block holds kTokens tokens of one head: their keys [width, kTokens], which makes each element
// of all keys one vector, then their values [kTokens, width].
struct KvBlock {
  KvType type;
  int64_t width;  // a multiple of 16

  int64_t key_bytes() const { return width * kTokens * kv_bytes(type); }
  int64_t bytes() const { return 2 * key_bytes(); }

  static constexpr int64_t kTokens = 16;
};

// Queries of one key/value head, and their partial sums over the blocks so far.
struct AttentionRows {
  int64_t rows;
  const float* q;   // [rows, width], times the scale of the scores
  float* weighted;  // [rows, width]: sum of exp(score - largest) * value
  float* largest;   // [rows]: score; minus infinity before the first key
  float* sum;       // [rows]: of exp(score - largest)
};

// One head of the gated delta rule (ops/delta_rule.h) for consecutive tokens of one sequence.
struct DeltaHead {
  int64_t tokens, key_width, value_width;  // value_width a multiple of 16
  const float* q;                          // [tokens, key_width], normalized and scaled
  const float* k;                          // [tokens, key_width], normalized
  const float* v;                          // tokens are v_stride apart
  const float* factor;                     // exp(g); tokens are gate_stride apart, as for beta
  const float* beta;
  int64_t v_stride, gate_stride;
  float* state;  // [key_width, value_width]
  float* out;    // tokens are out_stride apart
  int64_t out_stride;
};

// SiLU of a causal depthwise convolution over consecutive tokens of one sequence, for a range of
// channels.
struct Convolution {
  int64_t tokens, channels, taps;  // channels a multiple of 16, at most kMostTaps taps
  const float* x;                  // tokens are x_stride apart
  int64_t x_stride;
  const float* past;  // the taps - 1 inputs before x, past_stride apart
  int64_t past_stride;
  const float* weight;  // [channels, taps]; the last tap is for the token itself
  float* out;
  int64_t out_stride;

  static constexpr int64_t kMostTaps = 8;
};

// The nearest number with 4 exponent and 3 mantissa bits, half to even; too large numbers become
// 448, the largest (OCP 8-bit floating point, E4M3).
[[maybe_unused]] static uint8_t e4m3_from_float(float value) {
  const uint32_t bits = bits_from_float(value), magnitude = bits & 0x7fffffff;
  const auto sign = static_cast<uint8_t>(bits >> 24 & 0x80);
  if (magnitude > 0x7f800000) return sign | 0x7f;
  if (magnitude >= 0x43e00000) return sign | 0x7e;  // 448 and above
  if (magnitude < 0x3c800000) {                     // below 2^-6: multiples of 2^-9
    const float shifted = float_from_bits(magnitude) * 512.0f + 0x1p23f;
    return sign | static_cast<uint8_t>(bits_from_float(shifted) - 0x4b000000);
  }
  const uint32_t rounded = (magnitude + 0x7ffff + (magnitude >> 20 & 1)) >> 20;
  const uint32_t code = rounded - (120u << 3);
  return sign | static_cast<uint8_t>(code < 0x7e ? code : 0x7e);
}

[[maybe_unused]] static float float_from_e4m3(uint8_t code) {
  const uint32_t sign = uint32_t{code & 0x80u} << 24;
  if ((code & 0x7f) == 0x7f) return float_from_bits(sign | 0x7fc00000);
  // The exponent's bias is 7 in E4M3 and 127 in fp32.
  return float_from_bits(sign | uint32_t{code & 0x7fu} << 20) * 0x1p120f;
}

[[maybe_unused]] static void store_kv(KvType type, void* values, int64_t index, float value) {
  switch (type) {
    case KvType::fp32:
      static_cast<float*>(values)[index] = value;
      break;
    case KvType::bf16:
      static_cast<uint16_t*>(values)[index] = bf16_from_float(value);
      break;
    case KvType::fp16:
      static_cast<uint16_t*>(values)[index] = fp16_from_float(value);
      break;
    case KvType::fp8_e4m3:
      static_cast<uint8_t*>(values)[index] = e4m3_from_float(value);
      break;
  }
}

}  // namespace quern::kernels
