#include "nn/weight.h"

#include <algorithm>

#include "base/error.h"
#include "ops/rows.h"

namespace quern::nn {

Weight::Weight(std::string name, int64_t rows, int64_t columns,
               std::variant<Dense, Rounding, Packed> form)
    : stored_(std::make_shared<Stored>(Stored{std::move(name), rows, columns, std::move(form)})) {}

int64_t Weight::matrices() const {
  if (const Dense* form = dense()) return static_cast<int64_t>(form->matrices.size());
  if (const Rounding* form = rounding()) return (*form)->matrices();
  return (*packed())->matrices();
}

const Tensor& Weight::matrix_values(int64_t matrix) const {
  if (const Dense* form = dense()) return form->matrices[matrix];
  QUERN_CHECK(rounding());
  return (*rounding())->values(matrix);
}

bool Weight::multiplies_in_bf16() const {
  const Rounding* form = rounding();
  return form && (*form)->values(0).scalar_type() == at::kBFloat16;
}

Activations Weight::prepare(const float* x, int64_t tokens, int64_t stride) const {
  Activations ready{x, tokens, stride, {}, {}};
  if (const Packed* form = packed()) ready.planes = (*form)->prepare(x, tokens, stride);
  if (multiplies_in_bf16()) ready.bf16 = ops::Bf16Left(x, tokens, columns(), stride);
  return ready;
}

void Weight::product(const Activations& x, int64_t matrix, int64_t begin, int64_t end, float* out,
                     int64_t out_stride) const {
  if (const Packed* form = packed()) {
    (*form)->product(x.planes, matrix, begin, end, out, out_stride);
  } else if (multiplies_in_bf16()) {
    ops::bf16_rows_product(x.bf16, matrix_values(matrix), begin, end, out, out_stride);
  } else {
    ops::rows_product(x.x, x.tokens, x.stride, matrix_values(matrix), begin, end, out, out_stride);
  }
}

void Weight::product_backward(const float* dy, int64_t tokens, int64_t dy_stride, int64_t matrix,
                              float* dx, int64_t dx_stride, bool accumulate) const {
  if (multiplies_in_bf16()) {
    ops::bf16_rows_product_backward(ops::Bf16Left(dy, tokens, rows(), dy_stride),
                                    matrix_values(matrix), dx, dx_stride, accumulate);
    return;
  }
  ops::rows_product_backward(dy, tokens, dy_stride, matrix_values(matrix), dx, dx_stride,
                             accumulate);
}

StepInput Weight::prepare_step(const float* x, int64_t tokens, int64_t stride) const {
  StepInput ready{x, tokens, stride, {}};
  if (multiplies_in_bf16()) ready.bf16 = ops::Bf16Right(x, tokens, columns(), stride);
  return ready;
}

void Weight::step(const float* dy, int64_t dy_stride, const StepInput& x, int64_t matrix,
                  int64_t begin, int64_t end) const {
  const Rounding* form = rounding();
  if (!form) return;
  thread_local std::vector<float> gradient;
  for (int64_t row = begin; row < end; row += kRowTile) {
    const int64_t count = std::min(kRowTile, end - row);
    if (static_cast<int64_t>(gradient.size()) < count * columns())
      gradient.resize(count * columns());
    if (multiplies_in_bf16()) {
      ops::bf16_product(ops::Bf16Left::transposed(dy + row, count, x.tokens, dy_stride), x.bf16,
                        gradient.data(), columns());
    } else {
      sgemm(count, columns(), x.tokens, {dy + row, dy_stride, Transpose::yes}, {x.x, x.stride},
            gradient.data(), columns());
    }
    (*form)->step(matrix, row, count, gradient.data());
  }
}

}  // namespace quern::nn
