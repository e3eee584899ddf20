#include "ops/bf16_matrix.h"

#include <algorithm>

#include "base/error.h"
#include "kernels/kernels.h"

namespace quern::ops {
namespace {

using kernels::MatrixPlace;

// Columns of a stored matrix that are arranged and multiplied at a time: with 2048 rows 1 MB, which
// stays in the second cache.
constexpr int64_t kColumns = 256;

const kernels::Bf16Matrix& bf16() { return *kernels::cpu_kernels().bf16_matrix; }

// Not zeroed, and on a 64-byte line.
Tensor room_for(int64_t elements) { return at::empty({elements}, at::kBFloat16); }

uint16_t* words(const Tensor& elements) {
  return reinterpret_cast<uint16_t*>(elements.data_ptr<at::BFloat16>());
}

const uint16_t* element(const Tensor& matrix, int64_t row, int64_t column) {
  return words(matrix) + row * matrix.size(1) + column;
}

}  // namespace

bool has_bf16_matrix() { return kernels::cpu_kernels().bf16_matrix != nullptr; }

Bf16Left::Bf16Left(const float* x, int64_t rows, int64_t inner, int64_t stride)
    : rows_(rows), inner_(inner), elements_(room_for(kernels::bf16_left_elements(rows, inner))) {
  bf16().left(MatrixPlace<float>{x, stride}, rows, inner, words(elements_));
}

Bf16Left Bf16Left::transposed(const float* x, int64_t rows, int64_t inner, int64_t stride) {
  Bf16Left left;
  left.rows_ = rows;
  left.inner_ = inner;
  left.elements_ = room_for(kernels::bf16_left_elements(rows, inner));
  bf16().left_transposed(MatrixPlace<float>{x, stride}, rows, inner, words(left.elements_));
  return left;
}

const uint16_t* Bf16Left::data() const { return words(elements_); }

Bf16Right::Bf16Right(const float* x, int64_t inner, int64_t columns, int64_t stride)
    : columns_(columns),
      inner_(inner),
      elements_(room_for(kernels::bf16_right_elements(inner, columns))) {
  bf16().right(MatrixPlace<float>{x, stride}, inner, columns, words(elements_));
}

const uint16_t* Bf16Right::data() const { return words(elements_); }

void bf16_product(const Bf16Left& left, const Bf16Right& right, float* c, int64_t c_stride) {
  QUERN_CHECK(left.inner() == right.inner());
  bf16().product(left.rows(), right.columns(), left.inner(), left.data(), right.data(), c, c_stride,
                 /*accumulate=*/false);
}

void bf16_rows_product(const Bf16Left& x, const Tensor& matrix, int64_t begin, int64_t end,
                       float* out, int64_t out_stride) {
  const int64_t inner = matrix.size(1);
  QUERN_CHECK(x.inner() == inner && inner % 2 == 0);
  const Tensor arranged =
      room_for(kernels::bf16_right_elements(inner, std::min(kColumns, end - begin)));
  for (int64_t row = begin; row < end; row += kColumns) {
    const int64_t count = std::min(kColumns, end - row);
    bf16().right_bf16_transposed({element(matrix, row, 0), inner}, inner, count, words(arranged));
    bf16().product(x.rows(), count, inner, x.data(), words(arranged), out + (row - begin),
                   out_stride, /*accumulate=*/false);
  }
}

void bf16_rows_product_backward(const Bf16Left& dy, const Tensor& matrix, float* dx,
                                int64_t dx_stride, bool accumulate) {
  const int64_t inner = matrix.size(0), columns = matrix.size(1);
  QUERN_CHECK(dy.inner() == inner);
  const Tensor arranged =
      room_for(kernels::bf16_right_elements(inner, std::min(kColumns, columns)));
  for (int64_t column = 0; column < columns; column += kColumns) {
    const int64_t count = std::min(kColumns, columns - column);
    bf16().right_bf16({element(matrix, 0, column), columns}, inner, count, words(arranged));
    bf16().product(dy.rows(), count, inner, dy.data(), words(arranged), dx + column, dx_stride,
                   accumulate);
  }
}

void bf16_from_float(const float* values, const Tensor& out) {
  QUERN_CHECK(out.is_contiguous() && out.numel() % 2 == 0);
  bf16().left(MatrixPlace<float>{values, out.numel()}, 1, out.numel(), words(out));
}

}  // namespace quern::ops
