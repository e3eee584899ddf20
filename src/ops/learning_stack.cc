#include "ops/learning_stack.h"

#include <algorithm>

#include "base/error.h"
#include "ops/bf16_matrix.h"
#include "ops/float_matrix.h"
#include "ops/rows.h"

namespace quern::ops {

LearningStack::LearningStack(int64_t matrices, int64_t rows, int64_t columns, DType dtype)
    : CpuStack(matrices, rows, columns) {
  QUERN_CHECK(dtype == at::kFloat ||
              (dtype == at::kBFloat16 && has_bf16_matrix() && columns % 2 == 0));
  for (int64_t i = 0; i < matrices; ++i)
    values_.push_back(at::empty({rows, columns}, at::TensorOptions(at::kCPU).dtype(dtype)));
}

DType LearningStack::fastest_dtype() { return has_bf16_matrix() ? at::kBFloat16 : at::kFloat; }

InputForm LearningStack::input_form() const {
  return {in_bf16() ? InputForm::Kind::bf16 : InputForm::Kind::plain};
}

ArrangedInput LearningStack::arrange(const float* x, int64_t tokens, int64_t stride) const {
  if (!in_bf16()) return {x, tokens, stride};
  return {x, tokens, stride, bf16_left(x, tokens, columns(), stride)};
}

void LearningStack::product(const ArrangedInput& x, int64_t matrix, int64_t begin, int64_t end,
                            float* out, int64_t out_stride) const {
  if (in_bf16())
    bf16_rows_product(x.memory, x.tokens, values_[matrix], begin, end, out, out_stride);
  else
    rows_product(x.x, x.tokens, x.stride, values_[matrix], begin, end, out, out_stride);
}

void LearningStack::input_gradient(const float* dy, int64_t tokens, int64_t dy_stride,
                                   int64_t matrix, float* dx, int64_t dx_stride,
                                   bool accumulate) const {
  if (in_bf16())
    bf16_rows_product_backward(bf16_left(dy, tokens, rows(), dy_stride), tokens, values_[matrix],
                               dx, dx_stride, accumulate);
  else
    rows_product_backward(dy, tokens, dy_stride, values_[matrix], dx, dx_stride, accumulate);
}

ArrangedInput LearningStack::arrange_to_learn(const float* x, int64_t tokens,
                                              int64_t stride) const {
  if (!in_bf16()) return {x, tokens, stride};
  return {x, tokens, stride, bf16_right(x, tokens, columns(), stride)};
}

void LearningStack::learn(const float* dy, int64_t dy_stride, const ArrangedInput& x,
                          int64_t matrix, int64_t begin, int64_t end) {
  thread_local std::vector<float> gradient;
  for (int64_t row = begin; row < end; row += kRowTile) {
    const int64_t count = std::min(kRowTile, end - row);
    if (static_cast<int64_t>(gradient.size()) < count * columns())
      gradient.resize(count * columns());
    if (in_bf16()) {
      bf16_product(bf16_left_transposed(dy + row, count, x.tokens, dy_stride), x.memory, count,
                   x.tokens, columns(), gradient.data(), columns());
    } else {
      float_product({count,
                     columns(),
                     x.tokens,
                     {dy + row, dy_stride, /*transposed=*/true},
                     {x.x, x.stride},
                     gradient.data(),
                     columns()});
    }
    step(matrix, row, count, gradient.data());
  }
}

float* LearningStack::fp32_rows(int64_t matrix, int64_t begin, int64_t count) {
  if (!in_bf16()) return values_[matrix].data_ptr<float>() + begin * columns();
  thread_local std::vector<float> rows;
  if (static_cast<int64_t>(rows.size()) < count * columns()) rows.resize(count * columns());
  return rows.data();
}

void LearningStack::store_rows(int64_t matrix, int64_t begin, int64_t count, const float* rows) {
  if (in_bf16()) bf16_from_float(rows, values_[matrix].narrow(0, begin, count));
}

}  // namespace quern::ops
