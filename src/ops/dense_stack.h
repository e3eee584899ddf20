// Matrices as the checkpoint stores them.
#pragma once

#include "ops/cpu_stack.h"

namespace quern::ops {

class DenseStack : public CpuStack {
 public:
  // [rows, columns] each, of equal shape, in bf16, fp16 or fp32; usually views of a mapped
  // checkpoint.
  explicit DenseStack(std::vector<Tensor> matrices);

  const Tensor& matrix(int64_t index) const { return matrices_[index]; }
  const std::vector<Tensor>& all() const { return matrices_; }

  void product(const ArrangedInput& x, int64_t matrix, int64_t begin, int64_t end, float* out,
               int64_t out_stride) const override;
  bool differentiable() const override { return true; }
  void input_gradient(const float* dy, int64_t tokens, int64_t dy_stride, int64_t matrix, float* dx,
                      int64_t dx_stride, bool accumulate) const override;

 private:
  std::vector<Tensor> matrices_;
};

}  // namespace quern::ops
