// Matrix products by vdpbf16ps, which adds two products of bf16 numbers to an fp32 sum in each of
// its 16 lanes. A pair of elements is one 32-bit word, so a factor is arranged by moving words: two
// rows are paired, and squares of 16 by 16 words are transposed in registers.
#include <immintrin.h>

#include "kernels/bf16_matrix.h"
#include "kernels/cpu/repeat.h"
#include "kernels/cpu/tables.h"
#include "kernels/cpu/transpose_avx512.h"

namespace quern::kernels {
namespace {

constexpr int kLanes = 16;
// 12 rows by 2 registers of columns are 24 sums, which leaves registers for the factors.
constexpr int kRows = 12;
// Words of a panel that are multiplied at a time: 16 KB, which stay in L1 for all rows.
constexpr int64_t kWordsAtOnce = 128;

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

__mmask16 first(int64_t lanes) {
  return static_cast<__mmask16>(lanes >= kLanes ? 0xffff : (1u << lanes) - 1);
}

__m512i words_of(__m512 low, __m512 high) {
  const __m256i low_half = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(low));
  const __m256i high_half = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(high));
  return _mm512_or_si512(_mm512_cvtepu16_epi32(low_half),
                         _mm512_slli_epi32(_mm512_cvtepu16_epi32(high_half), 16));
}

// Words with elements k and k + 1 of `count` neighbouring columns. `more`: row k + 1 exists.
__m512i pair_rows(MatrixPlace<float> from, int64_t k, int64_t column, int64_t count, bool more) {
  const __mmask16 mask = first(count);
  const float* row = from.data + k * from.stride + column;
  const __m512 low = _mm512_maskz_loadu_ps(mask, row);
  const __m512 high = more ? _mm512_maskz_loadu_ps(mask, row + from.stride) : _mm512_setzero_ps();
  return words_of(low, high);
}

__m512i pair_rows(MatrixPlace<uint16_t> from, int64_t k, int64_t column, int64_t count, bool more) {
  const __mmask16 mask = first(count);
  const uint16_t* row = from.data + k * from.stride + column;
  const __m256i low = _mm256_maskz_loadu_epi16(mask, row);
  const __m256i high =
      more ? _mm256_maskz_loadu_epi16(mask, row + from.stride) : _mm256_setzero_si256();
  return _mm512_or_si512(_mm512_cvtepu16_epi32(low),
                         _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
}

void left(MatrixPlace<float> from, int64_t rows, int64_t inner, uint16_t* arranged) {
  const int64_t padded = bf16_padded(inner);
  for (int64_t i = 0; i < rows; ++i) {
    const float* row = from.data + i * from.stride;
    for (int64_t k = 0; k < padded; k += kLanes) {
      const __m512 values = _mm512_maskz_loadu_ps(first(inner - k), row + k);
      _mm256_mask_storeu_epi16(arranged + i * padded + k, first(padded - k),
                               reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(values)));
    }
  }
}

void left_transposed(MatrixPlace<float> from, int64_t rows, int64_t inner, uint16_t* arranged) {
  const int64_t words = bf16_padded(inner) / 2;
  auto* out = reinterpret_cast<uint32_t*>(arranged);
  for (int64_t i = 0; i < rows; i += kLanes) {
    const int64_t count = smaller(kLanes, rows - i);
    for (int64_t word = 0; word < words; word += kLanes) {
      __m512i square[kLanes];
      for (int j = 0; j < kLanes; ++j) {
        const int64_t k = 2 * (word + j);
        square[j] = k < inner ? pair_rows(from, k, i, count, k + 1 < inner) : __m512i();
      }
      transpose(square);
      for (int64_t j = 0; j < count; ++j)
        _mm512_mask_storeu_epi32(out + (i + j) * words + word, first(words - word), square[j]);
    }
  }
}

// Rows of `from` are the inner dimension: two paired rows make the words.
template <class T>
void right(MatrixPlace<T> from, int64_t inner, int64_t columns, uint16_t* arranged) {
  const int64_t words = bf16_padded(inner) / 2;
  for (int64_t panel = 0; panel < columns; panel += kBf16Panel) {
    auto* out = reinterpret_cast<uint32_t*>(arranged) + panel * words;
    for (int64_t k = 0; k < inner; k += 2) {
      for (int64_t half = 0; half < kBf16Panel; half += kLanes, out += kLanes) {
        const int64_t count = columns - panel - half;
        _mm512_storeu_si512(
            out, count > 0 ? pair_rows(from, k, panel + half, count, k + 1 < inner) : __m512i());
      }
    }
  }
}

void right_bf16_transposed(MatrixPlace<uint16_t> from, int64_t inner, int64_t columns,
                           uint16_t* arranged) {
  const int64_t words = inner / 2;
  for (int64_t j = 0; j < (columns + kBf16Panel - 1) / kBf16Panel * kBf16Panel; j += kLanes) {
    auto* out = reinterpret_cast<uint32_t*>(arranged) + j / kBf16Panel * kBf16Panel * words +
                j % kBf16Panel;
    for (int64_t word = 0; word < words; word += kLanes) {
      const __mmask16 mask = first(words - word);
      __m512i square[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        square[i] = j + i < columns ? _mm512_maskz_loadu_epi32(
                                          mask, from.data + (j + i) * from.stride + 2 * word)
                                    : __m512i();
      }
      transpose(square);
      for (int64_t i = 0; i < smaller(kLanes, words - word); ++i)
        _mm512_storeu_si512(out + (word + i) * kBf16Panel, square[i]);
    }
  }
}

// A range of rows of the left factor and one panel.
struct Tile {
  const uint16_t* left;  // at its first word
  int64_t left_stride;   // in words
  const uint16_t* right;
  int64_t words;
  float* c;
  int64_t c_stride, columns;
  bool accumulate;
};

template <int kCount>
void multiply(const Tile& tile) {
  __m512 sums[kCount][2];
  const __mmask16 masks[2] = {first(tile.columns),
                              first(tile.columns > kLanes ? tile.columns - kLanes : 0)};
  repeat<kCount>([&](auto i) {
    repeat<2>([&](auto half) {
      sums[i][half] = tile.accumulate ? _mm512_maskz_loadu_ps(
                                            masks[half], tile.c + i * tile.c_stride + half * kLanes)
                                      : _mm512_setzero_ps();
    });
  });
  const auto* left = reinterpret_cast<const int32_t*>(tile.left);
  const auto* right = reinterpret_cast<const int32_t*>(tile.right);
  for (int64_t word = 0; word < tile.words; ++word, right += kBf16Panel) {
    const auto b0 = reinterpret_cast<__m512bh>(_mm512_loadu_si512(right));
    const auto b1 = reinterpret_cast<__m512bh>(_mm512_loadu_si512(right + kLanes));
    repeat<kCount>([&](auto i) {
      const auto a =
          reinterpret_cast<__m512bh>(_mm512_set1_epi32(left[i * tile.left_stride + word]));
      sums[i][0] = _mm512_dpbf16_ps(sums[i][0], a, b0);
      sums[i][1] = _mm512_dpbf16_ps(sums[i][1], a, b1);
    });
  }
  repeat<kCount>([&](auto i) {
    repeat<2>([&](auto half) {
      _mm512_mask_storeu_ps(tile.c + i * tile.c_stride + half * kLanes, masks[half], sums[i][half]);
    });
  });
}

using Multiply = void (*)(const Tile& tile);
constexpr Multiply kMultiply[kRows + 1] = {
    nullptr,     multiply<1>, multiply<2>, multiply<3>,  multiply<4>,  multiply<5>, multiply<6>,
    multiply<7>, multiply<8>, multiply<9>, multiply<10>, multiply<11>, multiply<12>};

void product(int64_t rows, int64_t columns, int64_t inner, const uint16_t* left,
             const uint16_t* right, float* c, int64_t c_stride, bool accumulate) {
  const int64_t words = bf16_padded(inner) / 2;
  for (int64_t word = 0; word < words; word += kWordsAtOnce) {
    for (int64_t column = 0; column < columns; column += kBf16Panel) {
      for (int64_t row = 0; row < rows; row += kRows) {
        const Tile tile = {left + 2 * (row * words + word),
                           words,
                           right + 2 * (column * words + word * kBf16Panel),
                           smaller(kWordsAtOnce, words - word),
                           c + row * c_stride + column,
                           c_stride,
                           smaller(kBf16Panel, columns - column),
                           accumulate || word > 0};
        kMultiply[smaller(kRows, rows - row)](tile);
      }
    }
  }
}

}  // namespace

const Bf16Matrix kAvx512Bf16Matrix = {
    .left = left,
    .left_transposed = left_transposed,
    .right = right<float>,
    .right_bf16 = right<uint16_t>,
    .right_bf16_transposed = right_bf16_transposed,
    .product = product,
};

}  // namespace quern::kernels
