// Packed 4-bit weights as the kernels multiply them. Made from a QuantWeight when a model is
// loaded; how a weight lies on disk is no matter here.
#pragma once

#include <string>

#include "kernels/kernels.h"
#include "ops/cpu_stack.h"
#include "quant/scheme.h"

namespace quern::ops {

class Int4Stack : public CpuStack {
 public:
  // Fails when the kernels cannot multiply such a weight, naming the limit and `name`.
  Int4Stack(const std::string& name, int64_t matrices, int64_t rows, int64_t columns,
            const quant::Scheme& scheme);

  // Arranges one matrix; different ones may be set at the same time.
  void set(int64_t matrix, const quant::QuantWeight& weight);

  // Activations become 16-bit integers on a grid for each token and piece of columns.
  InputForm input_form() const override;
  ArrangedInput arrange(const float* x, int64_t tokens, int64_t stride) const override;
  void product(const ArrangedInput& x, int64_t matrix, int64_t begin, int64_t end, float* out,
               int64_t out_stride) const override;

 private:
  quant::Scheme scheme_;
  kernels::Int4Shape shape_;
  size_t matrix_bytes_;
  AlignedBytes arranged_;
};

}  // namespace quern::ops
