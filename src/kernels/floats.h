// The floating-point types of stored weights and scales, and their exact conversions.
#pragma once

#include <cstdint>
#include <cstring>

namespace quern::kernels {

enum class FloatType : uint8_t { bf16, fp16, fp32 };

constexpr int64_t float_bytes(FloatType type) { return type == FloatType::fp32 ? 4 : 2; }

// The conversions are without branches, so that loops over them become vectors. They are static,
// not inline: files that are compiled for different instruction sets include this, and the linker
// must never hand one file's copy to another.
static float float_from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

static uint32_t bits_from_float(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

[[maybe_unused]] static float float_from_bf16(uint16_t bits) {
  return float_from_bits(uint32_t{bits} << 16);
}

// Round half to even; a NaN stays a NaN.
[[maybe_unused]] static uint16_t bf16_from_float(float value) {
  const uint32_t bits = bits_from_float(value), nearest = (bits + 0x7fff + (bits >> 16 & 1)) >> 16,
                 nan = bits >> 16 | 0x40;
  return static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? nan : nearest);
}

[[maybe_unused]] static float float_from_fp16(uint16_t bits) {
  const uint32_t sign = uint32_t{bits & 0x8000u} << 16, magnitude = bits & 0x7fff;
  const uint32_t normal = (magnitude << 13) + (112u << 23),
                 subnormal = bits_from_float(static_cast<float>(static_cast<int32_t>(magnitude)) *
                                             0x1p-24f),
                 not_finite = 0x7f800000 | (magnitude & 0x3ff) << 13;
  const uint32_t finite = magnitude >= 0x400 ? normal : subnormal;
  return float_from_bits(sign | (magnitude >= 0x7c00 ? not_finite : finite));
}

// Round half to even; too large numbers become infinite, a NaN stays a NaN.
[[maybe_unused]] static uint16_t fp16_from_float(float value) {
  const uint32_t bits = bits_from_float(value), magnitude = bits & 0x7fffffff;
  const uint32_t rebased = magnitude - (112u << 23),
                 normal = (rebased + 0xfff + (rebased >> 13 & 1)) >> 13;
  // Adding 0.5 leaves the multiples of 2^-24, fp16's subnormal step, rounded in the low bits.
  const uint32_t subnormal = bits_from_float(float_from_bits(magnitude) + 0.5f) - 0x3f000000;
  uint32_t out = magnitude >= 0x38800000 ? normal : subnormal;
  out = magnitude >= 0x47800000 ? 0x7c00 : out;  // 65536 and above; below it the carry decides
  out = magnitude > 0x7f800000 ? 0x7e00 : out;
  return static_cast<uint16_t>((bits >> 16 & 0x8000) | out);
}

[[maybe_unused]] static float load_float(FloatType type, const void* values, int64_t index) {
  if (type == FloatType::bf16) return float_from_bf16(static_cast<const uint16_t*>(values)[index]);
  if (type == FloatType::fp16) return float_from_fp16(static_cast<const uint16_t*>(values)[index]);
  return static_cast<const float*>(values)[index];
}

[[maybe_unused]] static void store_float(FloatType type, void* values, int64_t index, float value) {
  if (type == FloatType::bf16)
    static_cast<uint16_t*>(values)[index] = bf16_from_float(value);
  else if (type == FloatType::fp16)
    static_cast<uint16_t*>(values)[index] = fp16_from_float(value);
  else
    static_cast<float*>(values)[index] = value;
}

[[maybe_unused]] static float round_to(FloatType type, float value) {
  if (type == FloatType::bf16) return float_from_bf16(bf16_from_float(value));
  if (type == FloatType::fp16) return float_from_fp16(fp16_from_float(value));
  return value;
}

}  // namespace quern::kernels
