// Sixteen floats in one AVX-512 register, for the kernels written over lanes. Only avx512.cc
// includes this.
#pragma once

#include <immintrin.h>

#include "kernels/cpu/repeat.h"
#include "kernels/cpu/transpose_avx512.h"
#include "kernels/sequence.h"

namespace quern::kernels {
namespace {

struct Avx512Lanes {
  using Floats = __m512;
  using Ints = __m512i;
  using Mask = __mmask16;
  static constexpr int kDenseTile = 4;
  // 24 sums, 2 registers of b and one of a, out of 32 registers.
  static constexpr int kProductRows = 12, kProductVectors = 2;

  static Floats splat(float x) { return _mm512_set1_ps(x); }
  static Floats load(const float* p) { return _mm512_loadu_ps(p); }
  template <FloatType kType>
  static Floats load_as(const void* values, int64_t index) {
    if constexpr (kType == FloatType::fp32) {
      return _mm512_loadu_ps(static_cast<const float*>(values) + index);
    } else {
      const void* p = static_cast<const uint16_t*>(values) + index;
      const __m256i bits = _mm256_loadu_si256(static_cast<const __m256i*>(p));
      if constexpr (kType == FloatType::fp16) return _mm512_cvtph_ps(bits);
      return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
    }
  }
  static Floats load_e4m3(const uint8_t* p) {
    const __m512i codes =
        _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    const __m512i magnitude = _mm512_and_si512(codes, _mm512_set1_epi32(0x7f));
    const __m512i sign = _mm512_slli_epi32(_mm512_and_si512(codes, _mm512_set1_epi32(0x80)), 24);
    const __m512i bits = _mm512_or_si512(_mm512_slli_epi32(magnitude, 20), sign);
    const Floats value = _mm512_mul_ps(_mm512_castsi512_ps(bits), _mm512_set1_ps(0x1p120f));
    const __mmask16 nan = _mm512_cmpeq_epi32_mask(magnitude, _mm512_set1_epi32(0x7f));
    return _mm512_mask_mov_ps(value, nan, _mm512_set1_ps(__builtin_nanf("")));
  }
  static void store(float* p, Floats a) { _mm512_storeu_ps(p, a); }
  static Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
  static Floats sub(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
  static Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  static Floats div(Floats a, Floats b) { return _mm512_div_ps(a, b); }
  static Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
  static Floats min(Floats a, Floats b) { return _mm512_min_ps(a, b); }
  static Floats max(Floats a, Floats b) { return _mm512_max_ps(a, b); }
  static Floats round(Floats a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  static Floats root(Floats a) { return _mm512_sqrt_ps(a); }
  // 2^n for whole n from -126 to 127.
  static Floats power_of_two(Floats n) {
    const __m512i exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23));
  }
  static float round(float x) {
    const __m128 a = _mm_set_ss(x);
    return _mm_cvtss_f32(_mm_round_ss(a, a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  static float round_to(FloatType type, float x) {
    if (type == FloatType::fp16) return _cvtsh_ss(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT));
    return kernels::round_to(type, x);
  }

  static Mask at_most(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
  static Mask both(Mask a, Mask b) { return a & b; }
  static Floats select(Mask mask, Floats a, Floats b) { return _mm512_mask_blend_ps(mask, b, a); }

  static Ints load(const int32_t* p) { return _mm512_loadu_si512(p); }
  static void store(int32_t* p, Ints a) { _mm512_storeu_si512(p, a); }
  static Ints load(const int16_t* p) {
    return _mm512_cvtepi16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static void store(int16_t* p, Ints a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(a));
  }
  static Floats to_floats(Ints a) { return _mm512_cvtepi32_ps(a); }
  static Ints to_ints(Floats a) { return _mm512_cvtps_epi32(a); }
  // n - move * sign(g)
  static Ints step_against(Ints n, Floats g, int32_t move) {
    const Ints moves = _mm512_set1_epi32(move);
    const Floats none = _mm512_setzero_ps();
    n = _mm512_mask_sub_epi32(n, _mm512_cmp_ps_mask(g, none, _CMP_GT_OQ), n, moves);
    return _mm512_mask_add_epi32(n, _mm512_cmp_ps_mask(g, none, _CMP_LT_OQ), n, moves);
  }
  static void store_nibbles(uint8_t* p, Floats q) {
    const __m128i bytes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(q));
    const __m128i pairs = _mm_maddubs_epi16(bytes, _mm_set1_epi16(0x1001));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(pairs, pairs));
  }

  static float sum(Floats a) {
    const __m256 low = _mm512_castps512_ps256(a), high = _mm512_extractf32x8_ps(a, 1);
    const __m256 eight = _mm256_add_ps(low, high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
  }
  static float smallest(Floats a) { return _mm512_reduce_min_ps(a); }
  static float largest(Floats a) { return _mm512_reduce_max_ps(a); }
  static void transpose(Floats (&square)[16]) {
    __m512i words[16];
    repeat<16>([&](auto i) { words[i] = _mm512_castps_si512(square[i]); });
    kernels::transpose(words);
    repeat<16>([&](auto i) { square[i] = _mm512_castsi512_ps(words[i]); });
  }
  static void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
};

}  // namespace
}  // namespace quern::kernels
