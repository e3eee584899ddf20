#include "ops/rows.h"

#include <algorithm>

#include "base/error.h"
#include "kernels/kernels.h"
#include "ops/float_matrix.h"
#include "quant/float_type.h"

namespace quern::ops {
namespace {

// Rows converted at a time: 1 MB with 2048 columns, which stays in L2 during the product.
constexpr int64_t kRows = 128;
// Tokens whose activations stay in L2 while rows of the weight stream past: 256 KB with 2048
// columns.
constexpr int64_t kTokens = 32;

std::vector<float>& thread_scratch() {
  thread_local std::vector<float> scratch;
  return scratch;
}

}  // namespace

const float* rows_as_float(const Tensor& matrix, int64_t begin, int64_t end,
                           std::vector<float>& scratch) {
  const int64_t columns = matrix.size(1), count = (end - begin) * columns;
  if (matrix.scalar_type() == at::kFloat) return matrix.const_data_ptr<float>() + begin * columns;
  if (static_cast<int64_t>(scratch.size()) < count) scratch.resize(count);
  if (matrix.scalar_type() == at::kBFloat16) {
    const auto* source =
        reinterpret_cast<const uint16_t*>(matrix.const_data_ptr<at::BFloat16>()) + begin * columns;
    kernels::cpu_kernels().floats_from_bf16(source, count, scratch.data());
  } else {
    QUERN_CHECK(matrix.scalar_type() == at::kHalf);
    const auto* source =
        reinterpret_cast<const uint16_t*>(matrix.const_data_ptr<at::Half>()) + begin * columns;
    kernels::cpu_kernels().floats_from_fp16(source, count, scratch.data());
  }
  return scratch.data();
}

void rows_product(const float* x, int64_t tokens, int64_t x_stride, const Tensor& matrix,
                  int64_t begin, int64_t end, float* out, int64_t out_stride) {
  const int64_t columns = matrix.size(1), rows = end - begin;
  const kernels::DenseShape shape{rows, columns, quant::float_type(matrix.scalar_type())};
  const auto* weight = static_cast<const uint8_t*>(matrix.const_data_ptr()) +
                       begin * columns * matrix.element_size();
  thread_local std::vector<float> input, tile;
  for (int64_t t = 0; t < tokens; t += kTokens) {
    const int64_t count = std::min(kTokens, tokens - t);
    const float* from = x + t * x_stride;
    if (x_stride != columns && count > 1) {
      input.resize(static_cast<size_t>(kTokens * columns));
      for (int64_t i = 0; i < count; ++i)
        std::copy_n(from + i * x_stride, columns, input.data() + i * columns);
      from = input.data();
    }
    float* to = out + t * out_stride;
    const bool direct = out_stride == rows || count == 1;
    if (!direct) tile.resize(static_cast<size_t>(kTokens * rows));
    kernels::cpu_kernels().dense_product(shape, weight, from, count, 0, rows,
                                         direct ? to : tile.data());
    for (int64_t i = 0; !direct && i < count; ++i)
      std::copy_n(tile.data() + i * rows, rows, to + i * out_stride);
  }
}

void rows_product_backward(const float* dy, int64_t tokens, int64_t dy_stride, const Tensor& matrix,
                           float* dx, int64_t dx_stride, bool accumulate) {
  const int64_t rows = matrix.size(0), columns = matrix.size(1);
  const int64_t at_once = matrix.scalar_type() == at::kFloat ? rows : kRows;
  for (int64_t row = 0; row < rows; row += at_once) {
    const int64_t stop = std::min(rows, row + at_once);
    const float* w = rows_as_float(matrix, row, stop, thread_scratch());
    float_product({tokens,
                   columns,
                   stop - row,
                   {dy + row, dy_stride},
                   {w, columns},
                   dx,
                   dx_stride,
                   accumulate || row > 0});
  }
}

}  // namespace quern::ops
