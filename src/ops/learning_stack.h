// A stack whose weights change while a block is tuned. It multiplies by dense matrices that stand
// for the weights, and hands dL/dw of each to the method, tile by tile, so that no gradient of a
// whole matrix exists unless the method sums it.
#pragma once

#include "ops/cpu_stack.h"

namespace quern::ops {

class LearningStack : public CpuStack {
 public:
  // Products are of `dtype`: fp32, or bf16 where ops/bf16_matrix.h multiplies (then with an even
  // number of columns). The values are not set.
  LearningStack(int64_t matrices, int64_t rows, int64_t columns, DType dtype);
  static DType fastest_dtype();

  // What the products use, [rows, columns].
  const Tensor& values(int64_t matrix) const { return values_[matrix]; }

  bool learns() const override { return true; }
  InputForm input_form() const override;
  ArrangedInput arrange(const float* x, int64_t tokens, int64_t stride) const override;
  void product(const ArrangedInput& x, int64_t matrix, int64_t begin, int64_t end, float* out,
               int64_t out_stride) const override;
  bool differentiable() const override { return true; }
  void input_gradient(const float* dy, int64_t tokens, int64_t dy_stride, int64_t matrix, float* dx,
                      int64_t dx_stride, bool accumulate) const override;
  ArrangedInput arrange_to_learn(const float* x, int64_t tokens, int64_t stride) const override;
  void learn(const float* dy, int64_t dy_stride, const ArrangedInput& x, int64_t matrix,
             int64_t begin, int64_t end) override;

 protected:
  // dL/dw fp32 [count, columns] of rows [begin, begin + count). Rows are independent: calls for
  // different rows may run at the same time.
  virtual void step(int64_t matrix, int64_t begin, int64_t count, const float* gradient) = 0;

  // Runs `write`, which fills some rows of the values in fp32, and stores them.
  template <class Write>
  void set_values(int64_t matrix, int64_t begin, int64_t count, const Write& write) {
    float* rows = fp32_rows(matrix, begin, count);
    write(rows);
    store_rows(matrix, begin, count, rows);
  }

 private:
  bool in_bf16() const { return values_[0].scalar_type() == at::kBFloat16; }
  // The values themselves, or room of this thread where they are stored in bf16.
  float* fp32_rows(int64_t matrix, int64_t begin, int64_t count);
  void store_rows(int64_t matrix, int64_t begin, int64_t count, const float* rows);

  std::vector<Tensor> values_;
};

}  // namespace quern::ops
