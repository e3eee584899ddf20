// AVX-512 with VNNI. An activation is split into two signed bytes, x = 256 * high + low, and
// vpdpbusd multiplies each plane with the unsigned codes; its sums of four products are exact.
//
// Words of four activations are stored in panels of up to 12 tokens: [plane][panel][columns /
// 4][tokens]. Columns 8i, 8i + 2, 8i + 4, 8i + 6 make a word and the odd columns the next, because
// the low nibbles of a word of codes are the even columns.
#include <immintrin.h>

#include <utility>

#include "kernels/cpu/compensate_loops.h"
#include "kernels/cpu/delta_chunk_lanes.h"
#include "kernels/cpu/dense_lanes.h"
#include "kernels/cpu/float_matrix_lanes.h"
#include "kernels/cpu/int4_layout.h"
#include "kernels/cpu/lanes_avx512.h"
#include "kernels/cpu/repeat.h"
#include "kernels/cpu/rounding_lanes.h"
#include "kernels/cpu/row_loops.h"
#include "kernels/cpu/sequence_lanes.h"
#include "kernels/cpu/tables.h"

namespace quern::kernels {
namespace {

// The 32 rows of a block fill two registers; 12 tokens fill 24 of the 32 registers.
constexpr int64_t kPanel = 12;
constexpr int kHalves = 2, kHalf = 16;
// Tokens whose sums stay in the cache together with their activations.
constexpr int64_t kTokenChunk = 8 * kPanel;
// Prefetch distance in bytes; twice the distance evicts the activations.
constexpr int64_t kPrefetch = 4096;

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// The arguments of one product, for every function below.
struct Product {
  const Int4Shape& shape;
  Int4Layout layout;
  const uint8_t* arranged;
  const Int4Activations& x;
  float* out;
};

struct Panel {
  int64_t first, tokens;
  const int32_t* high;
  const int32_t* low;
};

Panel panel_of(const Int4Shape& shape, const Int4Activations& x, int64_t token) {
  const int64_t first = token / kPanel * kPanel, words = shape.columns / 4;
  const int32_t* high = reinterpret_cast<const int32_t*>(x.values) + first * words;
  return {first, smaller(kPanel, x.tokens - first), high, high + x.tokens * words};
}

// ---- activations

uint32_t largest_magnitude(const float* x, int64_t length) {
  __m512i largest = _mm512_setzero_si512();
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  for (int64_t k = 0; k < length; k += 16)
    largest = _mm512_max_epi32(largest, _mm512_and_si512(_mm512_loadu_si512(x + k), magnitude));
  return static_cast<uint32_t>(_mm512_reduce_max_epi32(largest));
}

// Stores 16 bytes as 4 words, `stride` words apart, even columns before odd ones in each 8.
void store_words(__m128i bytes, int64_t stride, int32_t* words) {
  const __m128i order = _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
  const __m128i ordered = _mm_shuffle_epi8(bytes, order);
  words[0] = _mm_extract_epi32(ordered, 0);
  words[stride] = _mm_extract_epi32(ordered, 1);
  words[2 * stride] = _mm_extract_epi32(ordered, 2);
  words[3 * stride] = _mm_extract_epi32(ordered, 3);
}

int32_t split_piece(const float* x, int64_t length, float inverse, int64_t stride, int32_t* high,
                    int32_t* low) {
  __m512i sum = _mm512_setzero_si512();
  for (int64_t k = 0; k < length; k += 16) {
    // A piece that is zero or not finite has inverse 0, and a NaN must not become a number.
    const __m512 scaled = _mm512_mul_ps(_mm512_loadu_ps(x + k), _mm512_set1_ps(inverse));
    const __m512i value = inverse == 0 ? _mm512_setzero_si512() : _mm512_cvtps_epi32(scaled);
    const __m512i upper = _mm512_srai_epi32(_mm512_add_epi32(value, _mm512_set1_epi32(128)), 8);
    const __m512i lower = _mm512_sub_epi32(value, _mm512_slli_epi32(upper, 8));
    store_words(_mm512_cvtepi32_epi8(upper), stride, high + k / 4 * stride);
    store_words(_mm512_cvtepi32_epi8(lower), stride, low + k / 4 * stride);
    sum = _mm512_add_epi32(sum, value);
  }
  return _mm512_reduce_add_epi32(sum);
}

void quantize_activations(const Int4Shape& shape, const float* x, int64_t begin, int64_t end,
                          const Int4Activations& out) {
  for (int64_t t = begin; t < end; ++t) {
    const Panel panel = panel_of(shape, out, t);
    int64_t piece = t * shape.pieces();
    for_each_piece(shape, [&](int64_t, int64_t first, int64_t length) {
      const float* from = x + t * shape.columns + first;
      const PieceGrid grid = piece_grid(largest_magnitude(from, length));
      const int64_t at = first / 4 * panel.tokens + t - panel.first;
      out.scales[piece] = grid.scale;
      out.sums[piece++] =
          split_piece(from, length, grid.inverse, panel.tokens,
                      const_cast<int32_t*>(panel.high) + at, const_cast<int32_t*>(panel.low) + at);
    });
  }
}

// ---- the contribution of a piece to the sums

__m512 group_scales(const Int4Shape& shape, const Int4Block& block, int64_t group, int half) {
  const int64_t at = group * kInt4RowBlock + half * kHalf;
  if (shape.scale_type == FloatType::bf16)
    return Avx512Lanes::load_as<FloatType::bf16>(block.scales, at);
  if (shape.scale_type == FloatType::fp16)
    return Avx512Lanes::load_as<FloatType::fp16>(block.scales, at);
  return Avx512Lanes::load_as<FloatType::fp32>(block.scales, at);
}

__m512i zeros_times(const Int4Block& block, int64_t group, int half, int32_t sum) {
  if (!block.zeros) return _mm512_set1_epi32(8 * sum);
  const void* zeros = block.zeros + group * kInt4RowBlock + half * kHalf;
  return _mm512_mullo_epi32(
      _mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(zeros))),
      _mm512_set1_epi32(sum));
}

__m512 add_piece(__m512 total, __m512i dot, __m512i zeros, __m512 scales, float x_scale) {
  const __m512 value = _mm512_cvtepi32_ps(_mm512_sub_epi32(dot, zeros));
  return _mm512_fmadd_ps(value, _mm512_mul_ps(scales, _mm512_set1_ps(x_scale)), total);
}

void store_rows(const Int4Shape& shape, int64_t block, int half, int64_t token, __m512 total,
                float* out) {
  const int64_t row = block * kInt4RowBlock + half * kHalf;
  if (row >= shape.rows) return;
  const auto mask = static_cast<__mmask16>((1u << smaller(kHalf, shape.rows - row)) - 1);
  _mm512_mask_storeu_ps(out + token * shape.rows + row, mask, total);
}

// ---- up to 4 tokens: one pass over the codes, limited by memory bandwidth

// The sums of a row block and kTokens tokens over a piece; high and low are the planes. A single
// token has separate sums for even and odd columns, because one dependency chain costs a sixth of
// the speed.
template <int kTokens>
struct Dots {
  static constexpr int kChains = kTokens == 1 ? 2 : 1, kSums = kHalves * kTokens;
  __m512i high[kChains * kSums], low[kChains * kSums];

  Dots() {
    repeat<kChains * kSums>([&](auto i) { high[i] = low[i] = _mm512_setzero_si512(); });
  }

  // Adds 8 columns.
  void add(const uint8_t* codes, const int32_t* high_words, const int32_t* low_words) {
    const __m512i nibble = _mm512_set1_epi8(15);
    __m512i even[kHalves], odd[kHalves];
    repeat<kHalves>([&](auto h) {
      const __m512i word = _mm512_load_si512(codes + h * 64);
      even[h] = _mm512_and_si512(word, nibble);
      odd[h] = _mm512_and_si512(_mm512_srli_epi16(word, 4), nibble);
    });
    repeat<kTokens>([&](auto t) {
      const __m512i high_even = _mm512_set1_epi32(high_words[t]);
      const __m512i high_odd = _mm512_set1_epi32(high_words[kTokens + t]);
      const __m512i low_even = _mm512_set1_epi32(low_words[t]);
      const __m512i low_odd = _mm512_set1_epi32(low_words[kTokens + t]);
      repeat<kHalves>([&](auto h) {
        constexpr int i = h * kTokens + t, j = (kChains - 1) * kSums + i;
        high[i] = _mm512_dpbusd_epi32(high[i], even[h], high_even);
        high[j] = _mm512_dpbusd_epi32(high[j], odd[h], high_odd);
        low[i] = _mm512_dpbusd_epi32(low[i], even[h], low_even);
        low[j] = _mm512_dpbusd_epi32(low[j], odd[h], low_odd);
      });
    });
  }

  __m512i sum(int i) const {
    __m512i of_high = high[i], of_low = low[i];
    if constexpr (kChains == 2) {
      of_high = _mm512_add_epi32(of_high, high[kSums + i]);
      of_low = _mm512_add_epi32(of_low, low[kSums + i]);
    }
    return _mm512_add_epi32(_mm512_slli_epi32(of_high, 8), of_low);
  }
};

template <int kTokens>
void stream(const Product& product, int64_t index) {
  const auto& [shape, layout, arranged, x, out] = product;
  const Int4Block block = int4_block(layout, arranged, index);
  const Panel panel = panel_of(shape, x, 0);
  const int32_t* high = panel.high;
  const int32_t* low = panel.low;
  const uint8_t* codes = block.codes;
  // The prefetch pointer covers the whole block, with scales and zeros: a gap of a few lines would
  // cost a memory access with full latency in every block.
  const uint8_t* ahead = block.scales + kPrefetch;
  const int64_t header = layout.scale_bytes + layout.zero_bytes;
  const int64_t header_of_piece = (header / 64 + layout.pieces - 1) / layout.pieces * 64;
  __m512 totals[kHalves * kTokens];
  repeat<kHalves * kTokens>([&](auto i) { totals[i] = _mm512_setzero_ps(); });
  int64_t piece = 0;
  for_each_piece(shape, [&](int64_t group, int64_t, int64_t length) {
    Dots<kTokens> dots;
    for (int64_t k = 0; k < length; k += 8) {
      Avx512Lanes::prefetch(ahead);
      Avx512Lanes::prefetch(ahead + 64);
      dots.add(codes, high, low);
      ahead += kHalves * 64;
      high += 2 * kTokens;
      low += 2 * kTokens;
      codes += kHalves * 64;
    }
    for (int64_t i = 0; i < header_of_piece; i += 64) Avx512Lanes::prefetch(ahead + i);
    ahead += header_of_piece;
    repeat<kHalves>([&](auto h) {
      const __m512 scales = group_scales(shape, block, group, h);
      repeat<kTokens>([&](auto t) {
        constexpr int i = h * kTokens + t;
        const int64_t p = t * layout.pieces + piece;
        const __m512i zeros = zeros_times(block, group, h, x.sums[p]);
        totals[i] = add_piece(totals[i], dots.sum(i), zeros, scales, x.scales[p]);
      });
    });
    ++piece;
  });
  repeat<kHalves>([&](auto h) {
    repeat<kTokens>([&](auto t) { store_rows(shape, index, h, t, totals[h * kTokens + t], out); });
  });
}

// ---- many tokens: codes are unpacked once per piece and reused for a chunk of tokens

// Bytes [k / 4][32 rows][4], in the order of the words of activations.
void unpack(const uint8_t* codes, int64_t length, uint8_t* bytes) {
  const __m512i nibble = _mm512_set1_epi8(15);
  for (int64_t k = 0; k < length; k += 8, codes += kHalves * 64, bytes += 2 * kHalves * 64) {
    for (int h = 0; h < kHalves; ++h) {
      Avx512Lanes::prefetch(codes + kPrefetch + h * 64);
      const __m512i word = _mm512_load_si512(codes + h * 64);
      _mm512_store_si512(bytes + h * 64, _mm512_and_si512(word, nibble));
      _mm512_store_si512(bytes + (kHalves + h) * 64,
                         _mm512_and_si512(_mm512_srli_epi16(word, 4), nibble));
    }
  }
}

template <int kTokens>
[[gnu::always_inline]] inline void add_dots(const uint8_t* bytes, const int32_t* words,
                                            int64_t length, __m512i (&dots)[kHalves * kTokens]) {
  for (int64_t k = 0; k < length; k += 4, bytes += kHalves * 64, words += kTokens) {
    __m512i codes[kHalves];
    repeat<kHalves>([&](auto h) { codes[h] = _mm512_load_si512(bytes + h * 64); });
    repeat<kTokens>([&](auto t) {
      const __m512i word = _mm512_set1_epi32(words[t]);
      repeat<kHalves>([&](auto h) {
        constexpr int i = h * kTokens + t;
        dots[i] = _mm512_dpbusd_epi32(dots[i], codes[h], word);
      });
    });
  }
}

// One piece of the rows of a block, unpacked.
struct UnpackedPiece {
  const uint8_t* bytes;
  Int4Block block;
  int64_t group, first, length, index;
};

// totals [tokens of the panel][32 rows] += the contribution of the piece, for one panel.
template <int kTokens>
void multiply_panel(const Product& product, const UnpackedPiece& piece, const Panel& panel,
                    float* totals) {
  const auto& [shape, layout, arranged, x, out] = product;
  __m512i dots[kHalves * kTokens];
  repeat<kHalves * kTokens>([&](auto i) { dots[i] = _mm512_setzero_si512(); });
  const int64_t at = piece.first / 4 * kTokens;
  add_dots<kTokens>(piece.bytes, panel.high + at, piece.length, dots);
  repeat<kHalves * kTokens>([&](auto i) { dots[i] = _mm512_slli_epi32(dots[i], 8); });
  add_dots<kTokens>(piece.bytes, panel.low + at, piece.length, dots);
  repeat<kHalves>([&](auto h) {
    const __m512 scales = group_scales(shape, piece.block, piece.group, h);
    repeat<kTokens>([&](auto t) {
      const int64_t p = (panel.first + t) * layout.pieces + piece.index;
      float* total = totals + t * kInt4RowBlock + h * kHalf;
      const __m512i zeros = zeros_times(piece.block, piece.group, h, x.sums[p]);
      _mm512_store_ps(total, add_piece(_mm512_load_ps(total), dots[h * kTokens + t], zeros, scales,
                                       x.scales[p]));
    });
  });
}

template <int... kTokens>
constexpr auto panel_table(std::integer_sequence<int, kTokens...>) {
  using Multiply = void (*)(const Product&, const UnpackedPiece&, const Panel&, float*);
  struct Table {
    Multiply entries[sizeof...(kTokens)];
  };
  return Table{{multiply_panel<kTokens + 1>...}};
}

void multiply_chunk(const Product& product, int64_t block, int64_t token, int64_t token_end) {
  static constexpr auto kMultiply = panel_table(std::make_integer_sequence<int, kPanel>());
  const auto& [shape, layout, arranged, x, out] = product;
  alignas(64) float totals[kTokenChunk * kInt4RowBlock];
  alignas(64) uint8_t bytes[kInt4RowBlock * Int4Shape::kPiece];
  for (int64_t i = 0; i < (token_end - token) * kHalves; ++i)
    _mm512_store_ps(totals + i * kHalf, _mm512_setzero_ps());
  UnpackedPiece piece = {};
  piece.bytes = bytes;
  piece.block = int4_block(layout, arranged, block);
  for_each_piece(shape, [&](int64_t group, int64_t first, int64_t length) {
    unpack(piece.block.codes + first / 2 * kInt4RowBlock, length, bytes);
    piece.group = group;
    piece.first = first;
    piece.length = length;
    for (int64_t t = token; t < token_end; t += kPanel) {
      const Panel panel = panel_of(shape, x, t);
      kMultiply.entries[panel.tokens - 1](product, piece, panel,
                                          totals + (t - token) * kInt4RowBlock);
    }
    ++piece.index;
  });
  for (int64_t t = token; t < token_end; ++t) {
    const float* total = totals + (t - token) * kInt4RowBlock;
    for (int h = 0; h < kHalves; ++h)
      store_rows(shape, block, h, t, _mm512_load_ps(total + h * kHalf), out);
  }
}

template <int kTokens>
void stream_blocks(const Product& product, int64_t first, int64_t last) {
  for (int64_t block = first; block < last; ++block) stream<kTokens>(product, block);
}

void multiply_blocks(const Product& product, int64_t first, int64_t last) {
  for (int64_t token = 0; token < product.x.tokens; token += kTokenChunk)
    for (int64_t block = first; block < last; ++block)
      multiply_chunk(product, block, token, smaller(token + kTokenChunk, product.x.tokens));
}

void int4_product(const Int4Shape& shape, const uint8_t* arranged, const Int4Activations& x,
                  int64_t begin, int64_t end, float* out) {
  const Product product = {shape, int4_layout(shape), arranged, x, out};
  const int64_t first = begin / kInt4RowBlock, last = (end + kInt4RowBlock - 1) / kInt4RowBlock;
  switch (x.tokens) {
    case 1:
      return stream_blocks<1>(product, first, last);
    case 2:
      return stream_blocks<2>(product, first, last);
    case 3:
      return stream_blocks<3>(product, first, last);
    case 4:
      return stream_blocks<4>(product, first, last);
    default:
      return multiply_blocks(product, first, last);
  }
}

}  // namespace

const CpuKernels kAvx512Kernels = {
    .name = "avx512",
    .quantize_activations = quantize_activations,
    .int4_product = int4_product,
    .dense_product = DenseKernels<Avx512Lanes>::product,
    .float_product = FloatMatrixKernels<Avx512Lanes>::product,
    .floats_from_bf16 = DenseKernels<Avx512Lanes>::convert_bf16,
    .floats_from_fp16 = DenseKernels<Avx512Lanes>::convert_fp16,
    .attend = SequenceKernels<Avx512Lanes>::attend,
    .delta_rule = SequenceKernels<Avx512Lanes>::delta_rule,
    .delta_chunk = DeltaChunkKernels<Avx512Lanes>::forward,
    .delta_chunk_backward = DeltaChunkKernels<Avx512Lanes>::backward,
    .convolve = SequenceKernels<Avx512Lanes>::convolve,
    .unit_rows = SequenceKernels<Avx512Lanes>::unit_rows,
    .unit_rows_backward = SequenceKernels<Avx512Lanes>::unit_rows_backward,
    .rows = RowLoops::kTable,
    .compensate = CompensateLoops::kTable,
    .rounding_start = RoundingKernels<Avx512Lanes>::start,
    .rounding_forward = RoundingKernels<Avx512Lanes>::forward,
    .rounding_codes = RoundingKernels<Avx512Lanes>::codes,
    .rounding_step = RoundingKernels<Avx512Lanes>::step,
};

}  // namespace quern::kernels
