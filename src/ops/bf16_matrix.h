// Products of matrices rounded to bf16, with fp32 sums, on the calling thread. AutoRound uses them
// where the processor has an instruction for them (kernels/bf16_matrix.h). A factor is arranged
// first; the arranged factor owns its memory.
#pragma once

#include "ops/aligned_bytes.h"
#include "tensor/tensor.h"

namespace quern::ops {

// Whether the functions below may be called; otherwise fp32 is as fast.
bool has_bf16_matrix();

// The left factor [rows, inner] of a product, from x fp32 [rows, inner] or, transposed, from x
// [inner, rows].
AlignedBytes bf16_left(const float* x, int64_t rows, int64_t inner, int64_t stride);
AlignedBytes bf16_left_transposed(const float* x, int64_t rows, int64_t inner, int64_t stride);
// The right factor, from x fp32 [inner, columns].
AlignedBytes bf16_right(const float* x, int64_t inner, int64_t columns, int64_t stride);

// c fp32 [rows, columns] = left [rows, inner] right [inner, columns].
void bf16_product(const AlignedBytes& left, const AlignedBytes& right, int64_t rows, int64_t inner,
                  int64_t columns, float* c, int64_t c_stride);

// out[t, r] = <x[t], matrix[begin + r]> for r < end - begin; matrix bf16 [rows, columns] with an
// even number of columns, x the left factor [tokens, columns].
void bf16_rows_product(const AlignedBytes& x, int64_t tokens, const Tensor& matrix, int64_t begin,
                       int64_t end, float* out, int64_t out_stride);

// dx[t] (+)= sum_r dy[t, r] matrix[r]; dy the left factor [tokens, rows].
void bf16_rows_product_backward(const AlignedBytes& dy, int64_t tokens, const Tensor& matrix,
                                float* dx, int64_t dx_stride, bool accumulate);

// Fills `out`, bf16 and contiguous, with `values` rounded half to even.
void bf16_from_float(const float* values, const Tensor& out);

}  // namespace quern::ops
