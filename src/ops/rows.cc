#include "ops/rows.h"

#include <algorithm>

#include "base/error.h"
#include "kernels/kernels.h"

namespace quern::ops {
namespace {

// Rows converted at a time: with 2048 columns 1 MB, which stays in L2 while it is multiplied.
constexpr int64_t kRows = 128;
// Activations that stay in L2 while rows of bf16 go by: with 2048 columns 256 KB.
constexpr int64_t kTokens = 32;
// From here on a row of sgemm's result has the same bits whatever the number of rows.
constexpr int64_t kFewestRows = 4;

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

namespace {

void bf16_rows_product(const float* x, int64_t tokens, const Tensor& matrix, int64_t begin,
                       int64_t end, float* out, int64_t out_stride) {
  const int64_t columns = matrix.size(1), rows = end - begin;
  const auto* weight =
      reinterpret_cast<const uint16_t*>(matrix.const_data_ptr<at::BFloat16>()) + begin * columns;
  thread_local std::vector<float> tile;
  tile.resize(static_cast<size_t>(kTokens * rows));
  for (int64_t t = 0; t < tokens; t += kTokens) {
    const int64_t count = std::min(kTokens, tokens - t);
    const bool dense = out_stride == rows || count == 1;
    float* to = dense ? out + t * out_stride : tile.data();
    kernels::cpu_kernels().bf16_product({rows, columns}, weight, x + t * columns, count, 0, rows,
                                        to);
    for (int64_t i = 0; !dense && i < count; ++i)
      std::copy_n(to + i * rows, rows, out + (t + i) * out_stride);
  }
}

void sgemm_rows_product(const float* x, int64_t tokens, int64_t x_stride, const Tensor& matrix,
                        int64_t begin, int64_t end, float* out, int64_t out_stride) {
  const int64_t columns = matrix.size(1);
  for (int64_t row = begin; row < end; row += kRows) {
    const int64_t stop = std::min(end, row + kRows);
    const float* w = rows_as_float(matrix, row, stop, thread_scratch());
    sgemm(tokens, stop - row, columns, {x, x_stride}, {w, columns, Transpose::yes},
          out + (row - begin), out_stride);
  }
}

}  // namespace

void rows_product(const float* x, int64_t tokens, int64_t x_stride, const Tensor& matrix,
                  int64_t begin, int64_t end, float* out, int64_t out_stride) {
  const int64_t columns = matrix.size(1), rows = end - begin;
  if (matrix.scalar_type() == at::kBFloat16 && x_stride == columns)
    return bf16_rows_product(x, tokens, matrix, begin, end, out, out_stride);
  if (tokens >= kFewestRows)
    return sgemm_rows_product(x, tokens, x_stride, matrix, begin, end, out, out_stride);
  std::vector<float> padded(static_cast<size_t>(kFewestRows * columns), 0.0f),
      product(static_cast<size_t>(kFewestRows * rows));
  for (int64_t t = 0; t < tokens; ++t)
    std::copy_n(x + t * x_stride, columns, padded.data() + t * columns);
  sgemm_rows_product(padded.data(), kFewestRows, columns, matrix, begin, end, product.data(), rows);
  for (int64_t t = 0; t < tokens; ++t)
    std::copy_n(product.data() + t * rows, rows, out + t * out_stride);
}

void rows_product_backward(const float* dy, int64_t tokens, int64_t dy_stride, const Tensor& matrix,
                           float* dx, int64_t dx_stride, bool accumulate) {
  const int64_t rows = matrix.size(0), columns = matrix.size(1);
  const int64_t at_once = matrix.scalar_type() == at::kFloat ? rows : kRows;
  for (int64_t row = 0; row < rows; row += at_once) {
    const int64_t stop = std::min(rows, row + at_once);
    const float* w = rows_as_float(matrix, row, stop, thread_scratch());
    sgemm(tokens, columns, stop - row, {dy + row, dy_stride}, {w, columns}, dx, dx_stride,
          accumulate || row > 0);
  }
}

}  // namespace quern::ops
