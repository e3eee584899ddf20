// Sixteen floats in two AVX2 registers, for the kernels written over lanes. Only avx2.cc includes
// this.
#pragma once

#include <immintrin.h>

#include "kernels/cpu/repeat.h"
#include "kernels/sequence.h"

namespace quern::kernels {
namespace {

struct Avx2Lanes {
  struct Floats {
    __m256 low, high;
  };
  struct Ints {
    __m256i low, high;
  };
  using Mask = Floats;  // all bits of a lane are set, or none
  static constexpr int kDenseTile = 2;
  // 12 sums, 2 registers of b and one of a, out of 16 registers.
  static constexpr int kProductRows = 6, kProductVectors = 1;

  static constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

  static Floats splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static Floats load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  template <FloatType kType>
  static Floats load_as(const void* values, int64_t index) {
    if constexpr (kType == FloatType::fp32) {
      return load(static_cast<const float*>(values) + index);
    } else {
      const auto* p =
          reinterpret_cast<const __m128i*>(static_cast<const uint16_t*>(values) + index);
      return {widen<kType>(_mm_loadu_si128(p)), widen<kType>(_mm_loadu_si128(p + 1))};
    }
  }
  static Floats load_e4m3(const uint8_t* p) {
    return {widen_e4m3(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))),
            widen_e4m3(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + 8)))};
  }
  static void store(float* p, Floats a) {
    _mm256_storeu_ps(p, a.low);
    _mm256_storeu_ps(p + 8, a.high);
  }
  static Floats add(Floats a, Floats b) {
    return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
  }
  static Floats sub(Floats a, Floats b) {
    return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
  }
  static Floats mul(Floats a, Floats b) {
    return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
  }
  static Floats div(Floats a, Floats b) {
    return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
  }
  static Floats fma(Floats a, Floats b, Floats c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
  }
  static Floats min(Floats a, Floats b) {
    return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
  }
  static Floats max(Floats a, Floats b) {
    return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
  }
  static Floats round(Floats a) {
    return {_mm256_round_ps(a.low, kNearest), _mm256_round_ps(a.high, kNearest)};
  }
  static Floats root(Floats a) { return {_mm256_sqrt_ps(a.low), _mm256_sqrt_ps(a.high)}; }
  // 2^n for whole n from -126 to 127.
  static Floats power_of_two(Floats n) { return {power_of_two(n.low), power_of_two(n.high)}; }
  static float round(float x) {
    return _mm_cvtss_f32(_mm_round_ss(_mm_set_ss(x), _mm_set_ss(x), kNearest));
  }
  static float round_to(FloatType type, float x) {
    if (type == FloatType::fp16) return _cvtsh_ss(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT));
    return kernels::round_to(type, x);
  }

  static Mask at_most(Floats a, Floats b) {
    return {_mm256_cmp_ps(a.low, b.low, _CMP_LE_OQ), _mm256_cmp_ps(a.high, b.high, _CMP_LE_OQ)};
  }
  static Mask both(Mask a, Mask b) {
    return {_mm256_and_ps(a.low, b.low), _mm256_and_ps(a.high, b.high)};
  }
  static Floats select(Mask mask, Floats a, Floats b) {
    return {_mm256_blendv_ps(b.low, a.low, mask.low), _mm256_blendv_ps(b.high, a.high, mask.high)};
  }

  static Ints load(const int32_t* p) {
    const auto* words = reinterpret_cast<const __m256i*>(p);
    return {_mm256_loadu_si256(words), _mm256_loadu_si256(words + 1)};
  }
  static void store(int32_t* p, Ints a) {
    auto* words = reinterpret_cast<__m256i*>(p);
    _mm256_storeu_si256(words, a.low);
    _mm256_storeu_si256(words + 1, a.high);
  }
  static Ints load(const int16_t* p) {
    const auto* halves = reinterpret_cast<const __m128i*>(p);
    return {_mm256_cvtepi16_epi32(_mm_loadu_si128(halves)),
            _mm256_cvtepi16_epi32(_mm_loadu_si128(halves + 1))};
  }
  static void store(int16_t* p, Ints a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), halves_in_order(a));
  }
  static Floats to_floats(Ints a) {
    return {_mm256_cvtepi32_ps(a.low), _mm256_cvtepi32_ps(a.high)};
  }
  static Ints to_ints(Floats a) { return {_mm256_cvtps_epi32(a.low), _mm256_cvtps_epi32(a.high)}; }
  // n - move * sign(g)
  static Ints step_against(Ints n, Floats g, int32_t move) {
    return {step_against(n.low, g.low, move), step_against(n.high, g.high, move)};
  }
  static void store_nibbles(uint8_t* p, Floats q) {
    const __m256i words = halves_in_order(to_ints(q));
    const __m128i bytes =
        _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    const __m128i pairs = _mm_maddubs_epi16(bytes, _mm_set1_epi16(0x1001));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(pairs, pairs));
  }

  static float sum(Floats a) {
    const __m256 eight = _mm256_add_ps(a.low, a.high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
  }
  static float smallest(Floats a) {
    const __m256 eight = _mm256_min_ps(a.low, a.high);
    const __m128 four = _mm_min_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_min_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_min_ss(two, _mm_shuffle_ps(two, two, 1)));
  }
  static float largest(Floats a) {
    const __m256 eight = _mm256_max_ps(a.low, a.high);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
  }
  static void transpose(Floats (&square)[16]) {
    __m256 quarters[4][8];  // low and high halves of the first 8 rows, then of the last 8
    repeat<8>([&](auto i) {
      quarters[0][i] = square[i].low;
      quarters[1][i] = square[i].high;
      quarters[2][i] = square[i + 8].low;
      quarters[3][i] = square[i + 8].high;
    });
    repeat<4>([&](auto q) { transpose(quarters[q]); });
    repeat<8>([&](auto i) {
      square[i] = {quarters[0][i], quarters[2][i]};
      square[i + 8] = {quarters[1][i], quarters[3][i]};
    });
  }
  static void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

 private:
  // Transposes in three rounds that exchange halves of 1, 2 and 4 words.
  static void transpose(__m256 (&w)[8]) {
    __m256 t[8];
    repeat<4>([&](auto i) {
      t[2 * i] = _mm256_unpacklo_ps(w[2 * i], w[2 * i + 1]);
      t[2 * i + 1] = _mm256_unpackhi_ps(w[2 * i], w[2 * i + 1]);
    });
    repeat<2>([&](auto i) {
      w[4 * i] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
      w[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xee);
      w[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
      w[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xee);
    });
    repeat<4>([&](auto i) {
      t[i] = _mm256_permute2f128_ps(w[i], w[i + 4], 0x20);
      t[i + 4] = _mm256_permute2f128_ps(w[i], w[i + 4], 0x31);
    });
    repeat<8>([&](auto i) { w[i] = t[i]; });
  }
  // Packs to sixteen int16. Packing interleaves the halves of both registers; the permutation
  // restores the order.
  static __m256i halves_in_order(Ints a) {
    return _mm256_permute4x64_epi64(_mm256_packs_epi32(a.low, a.high), 0xd8);
  }
  template <FloatType kType>
  static __m256 widen(__m128i bits) {
    if constexpr (kType == FloatType::fp16) return _mm256_cvtph_ps(bits);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  static __m256 widen_e4m3(__m128i bytes) {
    const __m256i codes = _mm256_cvtepu8_epi32(bytes);
    const __m256i magnitude = _mm256_and_si256(codes, _mm256_set1_epi32(0x7f));
    const __m256i sign = _mm256_slli_epi32(_mm256_and_si256(codes, _mm256_set1_epi32(0x80)), 24);
    const __m256i bits = _mm256_or_si256(_mm256_slli_epi32(magnitude, 20), sign);
    const __m256 value = _mm256_mul_ps(_mm256_castsi256_ps(bits), _mm256_set1_ps(0x1p120f));
    const __m256i nan = _mm256_cmpeq_epi32(magnitude, _mm256_set1_epi32(0x7f));
    return _mm256_blendv_ps(value, _mm256_set1_ps(__builtin_nanf("")), _mm256_castsi256_ps(nan));
  }
  static __m256 power_of_two(__m256 n) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
  }
  static __m256i step_against(__m256i n, __m256 g, int32_t move) {
    const __m256i moves = _mm256_set1_epi32(move);
    const __m256 none = _mm256_setzero_ps();
    const __m256i down = _mm256_castps_si256(_mm256_cmp_ps(g, none, _CMP_GT_OQ));
    const __m256i up = _mm256_castps_si256(_mm256_cmp_ps(g, none, _CMP_LT_OQ));
    n = _mm256_sub_epi32(n, _mm256_and_si256(down, moves));
    return _mm256_add_epi32(n, _mm256_and_si256(up, moves));
  }
};

}  // namespace
}  // namespace quern::kernels
