// The definition of every kernel in plain C++; the other tables must equal it bit for bit.
#include <cmath>

#include "kernels/cpu/compensate_loops.h"
#include "kernels/cpu/delta_chunk_lanes.h"
#include "kernels/cpu/dense_lanes.h"
#include "kernels/cpu/float_matrix_lanes.h"
#include "kernels/cpu/int4_layout.h"
#include "kernels/cpu/rounding_lanes.h"
#include "kernels/cpu/row_loops.h"
#include "kernels/cpu/sequence_lanes.h"
#include "kernels/cpu/tables.h"

namespace quern::kernels {
namespace {

struct PlainLanes {
  struct Floats {
    float v[16];
  };
  struct Ints {
    int32_t v[16];
  };
  struct Mask {
    bool v[16];
  };
  static constexpr int kDenseTile = 4;
  static constexpr int kProductRows = 4, kProductVectors = 1;

  template <class F>
  static Floats each(F f) {
    Floats out;
    for (int i = 0; i < 16; ++i) out.v[i] = f(i);
    return out;
  }

  static Floats splat(float x) {
    return each([&](int) { return x; });
  }
  static Floats load(const float* p) {
    return each([&](int i) { return p[i]; });
  }
  template <FloatType kType>
  static Floats load_as(const void* values, int64_t index) {
    return each([&](int i) { return load_float(kType, values, index + i); });
  }
  static Floats load_e4m3(const uint8_t* p) {
    return each([&](int i) { return float_from_e4m3(p[i]); });
  }
  static void store(float* p, const Floats& a) {
    for (int i = 0; i < 16; ++i) p[i] = a.v[i];
  }
  static Floats add(const Floats& a, const Floats& b) {
    return each([&](int i) { return a.v[i] + b.v[i]; });
  }
  static Floats sub(const Floats& a, const Floats& b) {
    return each([&](int i) { return a.v[i] - b.v[i]; });
  }
  static Floats mul(const Floats& a, const Floats& b) {
    return each([&](int i) { return a.v[i] * b.v[i]; });
  }
  static Floats div(const Floats& a, const Floats& b) {
    return each([&](int i) { return a.v[i] / b.v[i]; });
  }
  static Floats fma(const Floats& a, const Floats& b, const Floats& c) {
    return each([&](int i) { return std::fma(a.v[i], b.v[i], c.v[i]); });
  }
  // Returns the second operand if the comparison fails, as the vector instructions do for NaN.
  static Floats min(const Floats& a, const Floats& b) {
    return each([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
  }
  static Floats max(const Floats& a, const Floats& b) {
    return each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
  }
  static Floats round(const Floats& a) {
    return each([&](int i) { return std::nearbyint(a.v[i]); });
  }
  static Floats root(const Floats& a) {
    return each([&](int i) { return std::sqrt(a.v[i]); });
  }
  // 2^n for whole n from -126 to 127.
  static Floats power_of_two(const Floats& n) {
    return each([&](int i) {
      return float_from_bits(static_cast<uint32_t>(static_cast<int32_t>(n.v[i]) + 127) << 23);
    });
  }
  static float round(float x) { return std::nearbyint(x); }
  static float round_to(FloatType type, float x) { return kernels::round_to(type, x); }

  static Mask at_most(const Floats& a, const Floats& b) {
    Mask out;
    for (int i = 0; i < 16; ++i) out.v[i] = a.v[i] <= b.v[i];
    return out;
  }
  static Mask both(const Mask& a, const Mask& b) {
    Mask out;
    for (int i = 0; i < 16; ++i) out.v[i] = a.v[i] && b.v[i];
    return out;
  }
  static Floats select(const Mask& mask, const Floats& a, const Floats& b) {
    return each([&](int i) { return mask.v[i] ? a.v[i] : b.v[i]; });
  }

  template <class Int>
  static Ints load(const Int* p) {
    Ints out;
    for (int i = 0; i < 16; ++i) out.v[i] = p[i];
    return out;
  }
  template <class Int>
  static void store(Int* p, const Ints& a) {
    for (int i = 0; i < 16; ++i) p[i] = static_cast<Int>(a.v[i]);
  }
  static Floats to_floats(const Ints& a) {
    return each([&](int i) { return static_cast<float>(a.v[i]); });
  }
  static Ints to_ints(const Floats& a) {
    Ints out;
    for (int i = 0; i < 16; ++i) out.v[i] = static_cast<int32_t>(a.v[i]);
    return out;
  }
  // n - move * sign(g)
  static Ints step_against(const Ints& n, const Floats& g, int32_t move) {
    Ints out;
    for (int i = 0; i < 16; ++i) out.v[i] = n.v[i] - move * ((g.v[i] > 0) - (g.v[i] < 0));
    return out;
  }
  static void store_nibbles(uint8_t* p, const Floats& q) {
    for (int i = 0; i < 8; ++i)
      p[i] = static_cast<uint8_t>(static_cast<int>(q.v[2 * i]) | static_cast<int>(q.v[2 * i + 1])
                                                                     << 4);
  }

  static float sum(Floats a) {
    for (int half = 8; half >= 1; half /= 2)
      for (int i = 0; i < half; ++i) a.v[i] += a.v[i + half];
    return a.v[0];
  }
  static float smallest(const Floats& a) {
    float out = a.v[0];
    for (float x : a.v) out = x < out ? x : out;
    return out;
  }
  static float largest(const Floats& a) {
    float out = a.v[0];
    for (float x : a.v) out = x > out ? x : out;
    return out;
  }
  static void transpose(Floats (&square)[16]) {
    for (int i = 0; i < 16; ++i)
      for (int j = 0; j < i; ++j) std::swap(square[i].v[j], square[j].v[i]);
  }
  static void prefetch(const void*) {}
};

// Activations are stored as int16 [tokens, columns].
void quantize_activations(const Int4Shape& shape, const float* x, int64_t begin, int64_t end,
                          const Int4Activations& out) {
  for (int64_t t = begin; t < end; ++t) {
    int64_t piece = t * shape.pieces();
    for_each_piece(shape, [&](int64_t, int64_t first, int64_t length) {
      const float* from = x + t * shape.columns + first;
      int16_t* to = out.values + t * shape.columns + first;
      uint32_t largest = 0;
      for (int64_t k = 0; k < length; ++k) {
        const uint32_t magnitude = bits_from_float(from[k]) & 0x7fffffff;
        largest = magnitude > largest ? magnitude : largest;
      }
      const PieceGrid grid = piece_grid(largest);
      int32_t sum = 0;
      for (int64_t k = 0; k < length; ++k) {
        to[k] =
            grid.inverse == 0 ? 0 : static_cast<int16_t>(std::nearbyint(from[k] * grid.inverse));
        sum += to[k];
      }
      out.scales[piece] = grid.scale;
      out.sums[piece++] = sum;
    });
  }
}

int32_t code_dot(const Int4Block& block, int64_t lane, const int16_t* x, int64_t first,
                 int64_t length) {
  int32_t dot = 0;
  for (int64_t k = first; k < first + length; ++k) {
    const uint8_t byte = block.codes[k / 8 * 4 * kInt4RowBlock + lane * 4 + k % 8 / 2];
    dot += (k % 2 ? byte >> 4 : byte & 15) * x[k];
  }
  return dot;
}

void int4_product(const Int4Shape& shape, const uint8_t* arranged, const Int4Activations& x,
                  int64_t begin, int64_t end, float* out) {
  const Int4Layout layout = int4_layout(shape);
  for (int64_t t = 0; t < x.tokens; ++t) {
    const int16_t* values = x.values + t * shape.columns;
    for (int64_t row = begin; row < end; ++row) {
      const Int4Block block = int4_block(layout, arranged, row / kInt4RowBlock);
      const int64_t lane = row % kInt4RowBlock;
      int64_t piece = t * layout.pieces;
      float total = 0;
      for_each_piece(shape, [&](int64_t group, int64_t first, int64_t length) {
        const int64_t at = group * kInt4RowBlock + lane;
        const int32_t zero = block.zeros ? block.zeros[at] : 8;
        const int32_t dot = code_dot(block, lane, values, first, length) - zero * x.sums[piece];
        const float scale = load_float(shape.scale_type, block.scales, at) * x.scales[piece];
        total = std::fma(static_cast<float>(dot), scale, total);
        ++piece;
      });
      out[t * shape.rows + row] = total;
    }
  }
}

}  // namespace

const CpuKernels kReferenceKernels = {
    .name = "reference",
    .quantize_activations = quantize_activations,
    .int4_product = int4_product,
    .dense_product = DenseKernels<PlainLanes>::product,
    .float_product = FloatMatrixKernels<PlainLanes>::product,
    .floats_from_bf16 = DenseKernels<PlainLanes>::convert_bf16,
    .floats_from_fp16 = DenseKernels<PlainLanes>::convert_fp16,
    .attend = SequenceKernels<PlainLanes>::attend,
    .delta_rule = SequenceKernels<PlainLanes>::delta_rule,
    .delta_chunk = DeltaChunkKernels<PlainLanes>::forward,
    .delta_chunk_backward = DeltaChunkKernels<PlainLanes>::backward,
    .convolve = SequenceKernels<PlainLanes>::convolve,
    .unit_rows = SequenceKernels<PlainLanes>::unit_rows,
    .unit_rows_backward = SequenceKernels<PlainLanes>::unit_rows_backward,
    .rows = RowLoops::kTable,
    .compensate = CompensateLoops::kTable,
    .rounding_start = RoundingKernels<PlainLanes>::start,
    .rounding_forward = RoundingKernels<PlainLanes>::forward,
    .rounding_codes = RoundingKernels<PlainLanes>::codes,
    .rounding_step = RoundingKernels<PlainLanes>::step,
};

}  // namespace quern::kernels
