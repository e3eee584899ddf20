// Packed 4-bit weights in the kernels' layout, made from a QuantWeight when a model is loaded,
// whatever the format on disk.
#pragma once

#include <string>

#include "kernels/kernels.h"
#include "ops/cpu_stack.h"
#include "quant/scheme.h"

namespace quern::ops {

class Int4Stack : public CpuStack {
 public:
  // Fails when the kernels cannot multiply a weight of this shape and scheme, naming the limit and
  // `name`.
  Int4Stack(const std::string& name, int64_t matrices, int64_t rows, int64_t columns,
            const quant::Scheme& scheme);

  // Arranges one matrix; threads may set different matrices at the same time.
  void set(int64_t matrix, const quant::QuantWeight& weight);

  // Activations become 16-bit integers; each token and piece of columns has its own grid.
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
