// Products of matrices rounded to bf16, with fp32 sums, on the calling thread: what AutoRound
// multiplies with where the processor has an instruction for it (kernels/bf16_matrix.h).
#pragma once

#include "tensor/tensor.h"

namespace quern::ops {

// Whether the functions below may be called; else fp32 is as fast.
bool has_bf16_matrix();

// Arranged factors of a product left * right.
class Bf16Left {
 public:
  Bf16Left() = default;
  // x fp32 [rows, inner]
  Bf16Left(const float* x, int64_t rows, int64_t inner, int64_t stride);
  // x fp32 [inner, rows]
  static Bf16Left transposed(const float* x, int64_t rows, int64_t inner, int64_t stride);

  int64_t rows() const { return rows_; }
  int64_t inner() const { return inner_; }
  const uint16_t* data() const;

 private:
  int64_t rows_ = 0, inner_ = 0;
  Tensor elements_;
};

class Bf16Right {
 public:
  Bf16Right() = default;
  // x fp32 [inner, columns]
  Bf16Right(const float* x, int64_t inner, int64_t columns, int64_t stride);

  int64_t columns() const { return columns_; }
  int64_t inner() const { return inner_; }
  const uint16_t* data() const;

 private:
  int64_t columns_ = 0, inner_ = 0;
  Tensor elements_;
};

// c fp32 [left.rows, right.columns] = left right.
void bf16_product(const Bf16Left& left, const Bf16Right& right, float* c, int64_t c_stride);

// out[t, r] = <x[t], matrix[begin + r]> for r < end - begin; matrix bf16 [rows, columns] with an
// even number of columns, x [tokens, columns].
void bf16_rows_product(const Bf16Left& x, const Tensor& matrix, int64_t begin, int64_t end,
                       float* out, int64_t out_stride);

// dx[t] (+)= sum_r dy[t, r] matrix[r]; dy [tokens, rows].
void bf16_rows_product_backward(const Bf16Left& dy, const Tensor& matrix, float* dx,
                                int64_t dx_stride, bool accumulate);

// out, bf16 and contiguous, = as many of `values`, rounded half to even.
void bf16_from_float(const float* values, const Tensor& out);

}  // namespace quern::ops
