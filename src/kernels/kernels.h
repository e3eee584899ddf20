// Arithmetic on raw pointers: one table of functions for each instruction set, chosen once. All
// tables give equal bits, as defined by the reference in plain C++; the exception is products of
// bf16 matrices, which only some tables have. No function allocates, starts a thread or checks its
// arguments; ops/ does.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/bf16_matrix.h"
#include "kernels/compensate.h"
#include "kernels/delta_chunk.h"
#include "kernels/float_matrix.h"
#include "kernels/floats.h"
#include "kernels/int4.h"
#include "kernels/rounding.h"
#include "kernels/rows.h"
#include "kernels/sequence.h"

namespace quern::kernels {

// A dense weight [rows, columns], as stored in the checkpoint.
struct DenseShape {
  int64_t rows, columns;
  FloatType type = FloatType::bf16;
};

struct CpuKernels {
  const char* name;  // reference, avx2, avx512, avx512bf16

  // x [tokens, columns] fp32 -> tokens [begin, end) of `out`. The largest magnitude of a piece
  // becomes 32500, which keeps both bytes of a value in the range of an int8.
  void (*quantize_activations)(const Int4Shape& shape, const float* x, int64_t begin, int64_t end,
                               const Int4Activations& out);

  // Computes columns [begin, end) of out [tokens, rows] fp32, one for each row of the weight; begin
  // is a multiple of kInt4RowBlock, and end is too unless it is `rows`. `x` comes from the same
  // table.
  void (*int4_product)(const Int4Shape& shape, const uint8_t* arranged, const Int4Activations& x,
                       int64_t begin, int64_t end, float* out);

  // out[t, n] = sum over k of x[t, k] * weight[n, k] for n in [begin, end) and a few tokens; x is
  // fp32 [tokens, columns], out [tokens, rows], the weight aligned to its elements. Sums as in
  // rounding.h, with fused multiply-adds; a row is read once for a few tokens.
  void (*dense_product)(const DenseShape& shape, const void* weight, const float* x, int64_t tokens,
                        int64_t begin, int64_t end, float* out);
  // A product of fp32 matrices (float_matrix.h); scratch: kFloatScratch floats.
  void (*float_product)(const FloatProduct& product, float* scratch);
  void (*floats_from_bf16)(const uint16_t* values, int64_t count, float* out);
  void (*floats_from_fp16)(const uint16_t* values, int64_t count, float* out);

  // Adds keys [begin[r], end[r]) of a block to row r; sums over a width use two chains, even and
  // odd, sums over tokens use one.
  void (*attend)(const KvBlock& shape, const uint8_t* block, const int32_t* begin,
                 const int32_t* end, const AttentionRows& rows);
  void (*delta_rule)(const DeltaHead& head);
  // One chunk: reads the state before it and replaces it with the state after it; out's tokens are
  // out_stride apart. `scratch`: delta_chunk_scratch() floats.
  void (*delta_chunk)(const DeltaChunk& chunk, float* state, float* out, int64_t out_stride,
                      float* scratch);
  void (*delta_chunk_backward)(const DeltaChunk& chunk, const DeltaChunkGradient& gradient,
                               float* scratch);
  void (*convolve)(const Convolution& convolution);
  // x / sqrt(|x|^2 + eps) * scale for rows that are `stride` apart; width is a multiple of 16.
  void (*unit_rows)(const float* x, int64_t rows, int64_t stride, int64_t width, float eps,
                    float scale, float* out);

  // The gradient of unit_rows for x, from the gradient for its output, [rows, width].
  void (*unit_rows_backward)(const float* x, int64_t rows, int64_t stride, int64_t width, float eps,
                             float scale, const float* d_out, float* d_x, int64_t d_x_stride);

  RowKernels rows;
  CompensateKernels compensate;

  // AutoRound (rounding.h). `start` sets n = 0, alpha = beta = 1, finds low and high, and returns
  // whether all weights and their scales are finite; if not, the other functions are undefined.
  // `forward` writes w^ [rows, columns]; `codes` writes the final form; `step` changes the state by
  // one sign step and writes the new w^.
  bool (*rounding_start)(const Rounding& rounding, const RoundingRows& state);
  void (*rounding_forward)(const Rounding& rounding, const RoundingRows& state, float* w_hat);
  void (*rounding_codes)(const Rounding& rounding, const RoundingRows& state,
                         const RoundingCodes& codes);
  void (*rounding_step)(const Rounding& rounding, const RoundingStep& step,
                        const RoundingRows& state, float* w_hat);

  const Bf16Matrix* bf16_matrix = nullptr;  // null if fp32 is as fast
};

// The fastest table that this processor can run, or the one that QUERN_CPU_ISA names; fails if the
// name is unknown or the processor cannot run it.
const CpuKernels& cpu_kernels();

// All tables that this processor can run, the reference first, the fastest last.
std::vector<const CpuKernels*> available_cpu_kernels();

// The table for QUERN_CPU_ISA=wanted; null or empty: the fastest.
const CpuKernels& choose_cpu_kernels(const char* wanted);

}  // namespace quern::kernels
