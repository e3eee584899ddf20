#include "ops/bf16_matrix.h"

#include <algorithm>

#include "base/error.h"
#include "kernels/kernels.h"

namespace quern::ops {
namespace {

using kernels::MatrixPlace;

// Columns of a stored matrix that are arranged and multiplied at a time: 1 MB with 2048 rows, which
// stays in L2.
constexpr int64_t kColumns = 256;

const kernels::Bf16Matrix& bf16() { return *kernels::cpu_kernels().bf16_matrix; }

AlignedBytes room_for(int64_t elements) { return AlignedBytes(elements * sizeof(uint16_t)); }

uint16_t* words(const AlignedBytes& bytes) { return reinterpret_cast<uint16_t*>(bytes.data()); }

uint16_t* words(const Tensor& elements) {
  return reinterpret_cast<uint16_t*>(elements.data_ptr<at::BFloat16>());
}

const uint16_t* element(const Tensor& matrix, int64_t row, int64_t column) {
  return words(matrix) + row * matrix.size(1) + column;
}

}  // namespace

bool has_bf16_matrix() { return kernels::cpu_kernels().bf16_matrix != nullptr; }

AlignedBytes bf16_left(const float* x, int64_t rows, int64_t inner, int64_t stride) {
  AlignedBytes left = room_for(kernels::bf16_left_elements(rows, inner));
  bf16().left(MatrixPlace<float>{x, stride}, rows, inner, words(left));
  return left;
}

AlignedBytes bf16_left_transposed(const float* x, int64_t rows, int64_t inner, int64_t stride) {
  AlignedBytes left = room_for(kernels::bf16_left_elements(rows, inner));
  bf16().left_transposed(MatrixPlace<float>{x, stride}, rows, inner, words(left));
  return left;
}

AlignedBytes bf16_right(const float* x, int64_t inner, int64_t columns, int64_t stride) {
  AlignedBytes right = room_for(kernels::bf16_right_elements(inner, columns));
  bf16().right(MatrixPlace<float>{x, stride}, inner, columns, words(right));
  return right;
}

void bf16_product(const AlignedBytes& left, const AlignedBytes& right, int64_t rows, int64_t inner,
                  int64_t columns, float* c, int64_t c_stride) {
  bf16().product(rows, columns, inner, words(left), words(right), c, c_stride,
                 /*accumulate=*/false);
}

void bf16_rows_product(const AlignedBytes& x, int64_t tokens, const Tensor& matrix, int64_t begin,
                       int64_t end, float* out, int64_t out_stride) {
  const int64_t inner = matrix.size(1);
  QUERN_CHECK(inner % 2 == 0);
  const AlignedBytes arranged =
      room_for(kernels::bf16_right_elements(inner, std::min(kColumns, end - begin)));
  for (int64_t row = begin; row < end; row += kColumns) {
    const int64_t count = std::min(kColumns, end - row);
    bf16().right_bf16_transposed({element(matrix, row, 0), inner}, inner, count, words(arranged));
    bf16().product(tokens, count, inner, words(x), words(arranged), out + (row - begin), out_stride,
                   /*accumulate=*/false);
  }
}

void bf16_rows_product_backward(const AlignedBytes& dy, int64_t tokens, const Tensor& matrix,
                                float* dx, int64_t dx_stride, bool accumulate) {
  const int64_t inner = matrix.size(0), columns = matrix.size(1);
  const AlignedBytes arranged =
      room_for(kernels::bf16_right_elements(inner, std::min(kColumns, columns)));
  for (int64_t column = 0; column < columns; column += kColumns) {
    const int64_t count = std::min(kColumns, columns - column);
    bf16().right_bf16({element(matrix, 0, column), columns}, inner, count, words(arranged));
    bf16().product(tokens, count, inner, words(dy), words(arranged), dx + column, dx_stride,
                   accumulate);
  }
}

void bf16_from_float(const float* values, const Tensor& out) {
  QUERN_CHECK(out.is_contiguous() && out.numel() % 2 == 0);
  bf16().left(MatrixPlace<float>{values, out.numel()}, 1, out.numel(), words(out));
}

}  // namespace quern::ops
