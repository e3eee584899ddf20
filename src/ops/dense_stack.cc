#include "ops/dense_stack.h"

#include "base/error.h"
#include "ops/rows.h"

namespace quern::ops {

DenseStack::DenseStack(std::vector<Tensor> matrices)
    : CpuStack(std::ssize(matrices), matrices.at(0).size(0), matrices.at(0).size(1)),
      matrices_(std::move(matrices)) {
  for (const Tensor& matrix : matrices_)
    QUERN_CHECK(matrix.size(0) == rows() && matrix.size(1) == columns() && matrix.is_contiguous());
}

void DenseStack::product(const ArrangedInput& x, int64_t matrix, int64_t begin, int64_t end,
                         float* out, int64_t out_stride) const {
  rows_product(x.x, x.tokens, x.stride, matrices_[matrix], begin, end, out, out_stride);
}

void DenseStack::input_gradient(const float* dy, int64_t tokens, int64_t dy_stride, int64_t matrix,
                                float* dx, int64_t dx_stride, bool accumulate) const {
  rows_product_backward(dy, tokens, dy_stride, matrices_[matrix], dx, dx_stride, accumulate);
}

}  // namespace quern::ops
