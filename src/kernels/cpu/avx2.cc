// AVX2: vpmaddwd multiplies pairs of 16-bit activations and codes; its sums are exact.
//
// Words of two activations are stored in panels of up to 4 tokens: [panel][columns / 2][tokens].
// Columns 8i + j and 8i + 4 + j make word 4i + j, because shifting a word of codes by j nibbles
// leaves these two codes in its 16-bit halves.
#include <immintrin.h>

#include "kernels/cpu/compensate_loops.h"
#include "kernels/cpu/delta_chunk_lanes.h"
#include "kernels/cpu/dense_lanes.h"
#include "kernels/cpu/float_matrix_lanes.h"
#include "kernels/cpu/int4_layout.h"
#include "kernels/cpu/lanes_avx2.h"
#include "kernels/cpu/repeat.h"
#include "kernels/cpu/rounding_lanes.h"
#include "kernels/cpu/row_loops.h"
#include "kernels/cpu/sequence_lanes.h"
#include "kernels/cpu/tables.h"

namespace quern::kernels {
namespace {

// 16 rows x 4 tokens fill 8 of the 16 registers.
constexpr int64_t kPanel = 4, kHalf = 16;
// Prefetch distance in bytes.
constexpr int64_t kPrefetch = 4096;

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

struct Panel {
  int64_t first, tokens;
  int32_t* words;
};

Panel panel_of(const Int4Shape& shape, const Int4Activations& x, int64_t token) {
  const int64_t first = token / kPanel * kPanel;
  return {first, smaller(kPanel, x.tokens - first),
          reinterpret_cast<int32_t*>(x.values) + first * shape.columns / 2};
}

uint32_t largest_magnitude(const float* x, int64_t length) {
  __m256i largest = _mm256_setzero_si256();
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  for (int64_t k = 0; k < length; k += 8) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + k));
    largest = _mm256_max_epi32(largest, _mm256_and_si256(bits, magnitude));
  }
  alignas(32) int32_t lanes[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), largest);
  for (int32_t lane : lanes) lanes[0] = lane > lanes[0] ? lane : lanes[0];
  return static_cast<uint32_t>(lanes[0]);
}

int32_t round_piece(const float* x, int64_t length, float inverse, int64_t stride, int32_t* words) {
  __m256i sum = _mm256_setzero_si256();
  for (int64_t k = 0; k < length; k += 8) {
    // The inverse of a piece that is zero or not finite is 0; a NaN must stay a NaN.
    const __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(x + k), _mm256_set1_ps(inverse));
    const __m256i value = inverse == 0 ? _mm256_setzero_si256() : _mm256_cvtps_epi32(scaled);
    const __m128i pairs =
        _mm_blend_epi16(_mm256_castsi256_si128(value),
                        _mm_slli_epi32(_mm256_extracti128_si256(value, 1), 16), 0xaa);
    int32_t* to = words + k / 2 * stride;
    to[0] = _mm_extract_epi32(pairs, 0);
    to[stride] = _mm_extract_epi32(pairs, 1);
    to[2 * stride] = _mm_extract_epi32(pairs, 2);
    to[3 * stride] = _mm_extract_epi32(pairs, 3);
    sum = _mm256_add_epi32(sum, value);
  }
  alignas(32) int32_t lanes[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), sum);
  int32_t total = 0;
  for (int32_t lane : lanes) total += lane;
  return total;
}

void quantize_activations(const Int4Shape& shape, const float* x, int64_t begin, int64_t end,
                          const Int4Activations& out) {
  for (int64_t t = begin; t < end; ++t) {
    const Panel panel = panel_of(shape, out, t);
    int64_t piece = t * shape.pieces();
    for_each_piece(shape, [&](int64_t, int64_t first, int64_t length) {
      const float* from = x + t * shape.columns + first;
      const PieceGrid grid = piece_grid(largest_magnitude(from, length));
      int32_t* words = panel.words + first / 2 * panel.tokens + t - panel.first;
      out.scales[piece] = grid.scale;
      out.sums[piece++] = round_piece(from, length, grid.inverse, panel.tokens, words);
    });
  }
}

// The scales of 16 rows of a block for one group.
Avx2Lanes::Floats group_scales(const Int4Shape& shape, const Int4Block& block, int64_t group,
                               int64_t half) {
  const int64_t at = group * kInt4RowBlock + half * kHalf;
  if (shape.scale_type == FloatType::bf16)
    return Avx2Lanes::load_as<FloatType::bf16>(block.scales, at);
  if (shape.scale_type == FloatType::fp16)
    return Avx2Lanes::load_as<FloatType::fp16>(block.scales, at);
  return Avx2Lanes::load_as<FloatType::fp32>(block.scales, at);
}

// The zeros of 8 rows times the sum of a piece of activations.
__m256i zeros_times(const uint8_t* zeros, int32_t sum) {
  if (!zeros) return _mm256_set1_epi32(8 * sum);
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(zeros));
  return _mm256_mullo_epi32(_mm256_cvtepu8_epi32(bytes), _mm256_set1_epi32(sum));
}

void store_rows(const Int4Shape& shape, int64_t row, int64_t token, Avx2Lanes::Floats total,
                float* out) {
  const int64_t rows = smaller(kHalf, shape.rows - row);
  float* to = out + token * shape.rows + row;
  if (rows == kHalf) return Avx2Lanes::store(to, total);
  float lanes[kHalf];
  Avx2Lanes::store(lanes, total);
  for (int64_t r = 0; r < rows; ++r) to[r] = lanes[r];
}

// dots [8 of the 16 rows][token] += 8 columns at a time of one piece.
template <int kTokens>
[[gnu::always_inline]] inline void add_dots(const uint8_t* codes, const int32_t* words,
                                            int64_t length, __m256i (&dots)[2 * kTokens]) {
  const __m256i nibble = _mm256_set1_epi16(15);
  for (int64_t k = 0; k < length; k += 8, codes += 4 * kInt4RowBlock) {
    _mm_prefetch(reinterpret_cast<const char*>(codes + kPrefetch), _MM_HINT_T0);
    __m256i low = _mm256_load_si256(reinterpret_cast<const __m256i*>(codes));
    __m256i high = _mm256_load_si256(reinterpret_cast<const __m256i*>(codes + 32));
    repeat<4>([&](auto) {
      const __m256i low_codes = _mm256_and_si256(low, nibble);
      const __m256i high_codes = _mm256_and_si256(high, nibble);
      repeat<kTokens>([&](auto t) {
        const __m256i word = _mm256_set1_epi32(words[t]);
        dots[t] = _mm256_add_epi32(dots[t], _mm256_madd_epi16(low_codes, word));
        dots[kTokens + t] =
            _mm256_add_epi32(dots[kTokens + t], _mm256_madd_epi16(high_codes, word));
      });
      low = _mm256_srli_epi16(low, 4);
      high = _mm256_srli_epi16(high, 4);
      words += kTokens;
    });
  }
}

template <int kTokens>
void multiply_panel(const Int4Shape& shape, const Int4Layout& layout, const uint8_t* arranged,
                    const Int4Activations& x, const Panel& panel, int64_t block, int64_t half,
                    float* out) {
  const Int4Block at = int4_block(layout, arranged, block);
  Avx2Lanes::Floats totals[kTokens];
  repeat<kTokens>([&](auto t) { totals[t] = Avx2Lanes::splat(0); });
  int64_t piece = 0;
  for_each_piece(shape, [&](int64_t group, int64_t first, int64_t length) {
    __m256i dots[2 * kTokens];
    repeat<2 * kTokens>([&](auto i) { dots[i] = _mm256_setzero_si256(); });
    add_dots<kTokens>(at.codes + first / 2 * kInt4RowBlock + half * 64,
                      panel.words + first / 2 * kTokens, length, dots);
    const Avx2Lanes::Floats scales = group_scales(shape, at, group, half);
    const uint8_t* zeros = at.zeros ? at.zeros + group * kInt4RowBlock + half * kHalf : nullptr;
    repeat<kTokens>([&](auto t) {
      const int64_t p = (panel.first + t) * layout.pieces + piece;
      const __m256i low = _mm256_sub_epi32(dots[t], zeros_times(zeros, x.sums[p]));
      const __m256i high =
          _mm256_sub_epi32(dots[kTokens + t], zeros_times(zeros ? zeros + 8 : nullptr, x.sums[p]));
      totals[t] = Avx2Lanes::fma(Avx2Lanes::to_floats({low, high}),
                                 Avx2Lanes::mul(scales, Avx2Lanes::splat(x.scales[p])), totals[t]);
    });
    ++piece;
  });
  repeat<kTokens>([&](auto t) {
    store_rows(shape, block * kInt4RowBlock + half * kHalf, panel.first + t, totals[t], out);
  });
}

void int4_product(const Int4Shape& shape, const uint8_t* arranged, const Int4Activations& x,
                  int64_t begin, int64_t end, float* out) {
  static constexpr decltype(&multiply_panel<1>) kMultiply[kPanel] = {
      multiply_panel<1>, multiply_panel<2>, multiply_panel<3>, multiply_panel<4>};
  const Int4Layout layout = int4_layout(shape);
  const int64_t last = (end + kInt4RowBlock - 1) / kInt4RowBlock;
  for (int64_t block = begin / kInt4RowBlock; block < last; ++block) {
    for (int64_t token = 0; token < x.tokens; token += kPanel) {
      const Panel panel = panel_of(shape, x, token);
      for (int64_t half = 0; half < 2 && block * kInt4RowBlock + half * kHalf < shape.rows; ++half)
        kMultiply[panel.tokens - 1](shape, layout, arranged, x, panel, block, half, out);
    }
  }
}

}  // namespace

const CpuKernels kAvx2Kernels = {
    .name = "avx2",
    .quantize_activations = quantize_activations,
    .int4_product = int4_product,
    .dense_product = DenseKernels<Avx2Lanes>::product,
    .float_product = FloatMatrixKernels<Avx2Lanes>::product,
    .floats_from_bf16 = DenseKernels<Avx2Lanes>::convert_bf16,
    .floats_from_fp16 = DenseKernels<Avx2Lanes>::convert_fp16,
    .attend = SequenceKernels<Avx2Lanes>::attend,
    .delta_rule = SequenceKernels<Avx2Lanes>::delta_rule,
    .delta_chunk = DeltaChunkKernels<Avx2Lanes>::forward,
    .delta_chunk_backward = DeltaChunkKernels<Avx2Lanes>::backward,
    .convolve = SequenceKernels<Avx2Lanes>::convolve,
    .unit_rows = SequenceKernels<Avx2Lanes>::unit_rows,
    .unit_rows_backward = SequenceKernels<Avx2Lanes>::unit_rows_backward,
    .rows = RowLoops::kTable,
    .compensate = CompensateLoops::kTable,
    .rounding_start = RoundingKernels<Avx2Lanes>::start,
    .rounding_forward = RoundingKernels<Avx2Lanes>::forward,
    .rounding_codes = RoundingKernels<Avx2Lanes>::codes,
    .rounding_step = RoundingKernels<Avx2Lanes>::step,
};

}  // namespace quern::kernels
