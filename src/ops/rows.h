// Rows of a stored matrix as fp32, and products with them, on the calling thread, for the tiles of
// a larger product.
#pragma once

#include <vector>

#include "tensor/tensor.h"

namespace quern::ops {

// Rows [begin, end) of a matrix [rows, columns] in bf16, fp16 or fp32, as fp32 with stride
// `columns`: the matrix's own memory if it is fp32, otherwise converted into `scratch`.
const float* rows_as_float(const Tensor& matrix, int64_t begin, int64_t end,
                           std::vector<float>& scratch);

// out[t, r] = <x[t], matrix[begin + r]> for tokens t and r < end - begin. The bits of a token's row
// do not depend on the number of tokens.
void rows_product(const float* x, int64_t tokens, int64_t x_stride, const Tensor& matrix,
                  int64_t begin, int64_t end, float* out, int64_t out_stride);

// dx[t] (+)= sum_r dy[t, r] matrix[r], over all rows: the gradient of the product's input.
void rows_product_backward(const float* dy, int64_t tokens, int64_t dy_stride, const Tensor& matrix,
                           float* dx, int64_t dx_stride, bool accumulate);

}  // namespace quern::ops
