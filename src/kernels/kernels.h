// Arithmetic on raw pointers: one table of functions for each instruction set, picked once. All
// tables give the same bits, products of bf16 matrices apart, which only some have; the reference,
// plain C++, defines them. No function allocates, starts a thread or checks its arguments: ops/
// does.
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

// A dense weight [rows, columns], as a checkpoint holds it.
struct DenseShape {
  int64_t rows, columns;
  FloatType type = FloatType::bf16;
};

struct CpuKernels {
  const char* name;  // reference, avx2, avx512, avx512bf16

  // x [tokens, columns] fp32 -> tokens [begin, end) of `out`. A piece's largest magnitude becomes
  // 32500, which keeps both bytes of a value in the range of an int8.
  void (*quantize_activations)(const Int4Shape& shape, const float* x, int64_t begin, int64_t end,
                               const Int4Activations& out);

  // Columns [begin, end) of out [tokens, rows] fp32, one for each row of the weight; begin is a
  // multiple of kInt4RowBlock, end too or it is `rows`. `x` comes from the same table.
  void (*int4_product)(const Int4Shape& shape, const uint8_t* arranged, const Int4Activations& x,
                       int64_t begin, int64_t end, float* out);

  // out[t, n] = sum over k of x[t, k] * weight[n, k] for n in [begin, end) and a few tokens; x is
  // fp32 [tokens, columns], out [tokens, rows], the weight aligned to its elements. Summed as
  // rounding.h says, by fused multiply-add; a row is read once for a few tokens.
  void (*dense_product)(const DenseShape& shape, const void* weight, const float* x, int64_t tokens,
                        int64_t begin, int64_t end, float* out);
  // A product of fp32 matrices (float_matrix.h); scratch: kFloatScratch floats.
  void (*float_product)(const FloatProduct& product, float* scratch);
  void (*floats_from_bf16)(const uint16_t* values, int64_t count, float* out);
  void (*floats_from_fp16)(const uint16_t* values, int64_t count, float* out);

  // Adds keys [begin[r], end[r]) of a block to row r; sums over a width in two chains, even and
  // odd, sums over tokens in one.
  void (*attend)(const KvBlock& shape, const uint8_t* block, const int32_t* begin,
                 const int32_t* end, const AttentionRows& rows);
  void (*delta_rule)(const DeltaHead& head);
  // A chunk from `state` on, which becomes the one behind it; out's tokens are out_stride apart.
  // `scratch`: delta_chunk_scratch() floats.
  void (*delta_chunk)(const DeltaChunk& chunk, float* state, float* out, int64_t out_stride,
                      float* scratch);
  void (*delta_chunk_backward)(const DeltaChunk& chunk, const DeltaChunkGradient& gradient,
                               float* scratch);
  void (*convolve)(const Convolution& convolution);
  // x / sqrt(|x|^2 + eps) * scale for rows that are `stride` apart; width is a multiple of 16.
  void (*unit_rows)(const float* x, int64_t rows, int64_t stride, int64_t width, float eps,
                    float scale, float* out);

  // The gradient of unit_rows for x, from that for its output, [rows, width].
  void (*unit_rows_backward)(const float* x, int64_t rows, int64_t stride, int64_t width, float eps,
                             float scale, const float* d_out, float* d_x, int64_t d_x_stride);

  RowKernels rows;
  CompensateKernels compensate;

  // AutoRound (rounding.h). `start` sets n = 0, alpha = beta = 1 and finds low and high, and says
  // whether all weights and the scales that they lead to are finite, without which nothing else is
  // defined; `forward` writes w^ [rows, columns]; `codes` writes the final form; `step` changes the
  // state by one sign step and writes the new w^.
  bool (*rounding_start)(const Rounding& rounding, const RoundingRows& state);
  void (*rounding_forward)(const Rounding& rounding, const RoundingRows& state, float* w_hat);
  void (*rounding_codes)(const Rounding& rounding, const RoundingRows& state,
                         const RoundingCodes& codes);
  void (*rounding_step)(const Rounding& rounding, const RoundingStep& step,
                        const RoundingRows& state, float* w_hat);

  const Bf16Matrix* bf16_matrix = nullptr;  // null where fp32 is as fast
};

// The fastest table that this processor can run, or the one that QUERN_CPU_ISA names; fails if that
// is unknown or the processor cannot run it.
const CpuKernels& cpu_kernels();

// Every table that this processor can run, the reference first, the fastest last.
std::vector<const CpuKernels*> available_cpu_kernels();

// What QUERN_CPU_ISA=wanted chooses; null or empty: the fastest.
const CpuKernels& choose_cpu_kernels(const char* wanted);

}  // namespace quern::kernels
