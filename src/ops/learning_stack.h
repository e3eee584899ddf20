// A stack whose weights change while a block is tuned. It multiplies by dense matrices that
// represent the weights, and passes dL/dw to the method tile by tile, so a gradient of a whole
// matrix exists only if the method sums it.
#pragma once

#include "ops/cpu_stack.h"

namespace quern::ops {

class LearningStack : public CpuStack {
 public:
  // `dtype` of the products: fp32, or bf16 where ops/bf16_matrix.h multiplies (which needs an even
  // number of columns). The values are uninitialized.
  LearningStack(int64_t matrices, int64_t rows, int64_t columns, DType dtype);
  static DType fastest_dtype();

  // The matrix of the products, [rows, columns].
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
  // Takes dL/dw fp32 [count, columns] for rows [begin, begin + count). Rows are independent: calls
  // for different rows may run at the same time.
  virtual void step(int64_t matrix, int64_t begin, int64_t count, const float* gradient) = 0;

  // Runs `write`, which fills a range of rows in fp32, and stores the rows.
  template <class Write>
  void set_values(int64_t matrix, int64_t begin, int64_t count, const Write& write) {
    float* rows = fp32_rows(matrix, begin, count);
    write(rows);
    store_rows(matrix, begin, count, rows);
  }

 private:
  bool in_bf16() const { return values_[0].scalar_type() == at::kBFloat16; }
  // The values themselves, or a buffer of this thread if they are stored in bf16.
  float* fp32_rows(int64_t matrix, int64_t begin, int64_t count);
  void store_rows(int64_t matrix, int64_t begin, int64_t count, const float* rows);

  std::vector<Tensor> values_;
};

}  // namespace quern::ops
