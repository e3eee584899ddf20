// Packed 4-bit weights.
#pragma once

#include <string>

#include "kernels/kernels.h"
#include "ops/packed_stack.h"

namespace quern::ops {

class Int4Stack : public PackedStack {
 public:
  static std::string refusal(const quant::Scheme& scheme, int64_t rows, int64_t columns);

  Int4Stack(int64_t matrices, int64_t rows, int64_t columns, const quant::Scheme& scheme);

  void set(int64_t matrix, const quant::QuantWeight& weight) override;

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
