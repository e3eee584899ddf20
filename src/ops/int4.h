// Packed 4-bit weights as the kernels multiply them, and their activations. Made from a QuantWeight
// when a model is loaded; how a weight lies on disk is no matter here.
#pragma once

#include <memory>
#include <vector>

#include "kernels/kernels.h"
#include "quant/scheme.h"

namespace quern::ops {

// Memory that starts on a 64-byte line. A large piece is a mapping of its own on huge pages, which
// save the kernels most of their address translation.
class AlignedBytes {
 public:
  AlignedBytes() = default;
  explicit AlignedBytes(size_t size);
  uint8_t* data() const { return data_; }

 private:
  std::shared_ptr<void> owner_;
  uint8_t* data_ = nullptr;
};

// Activations as 16-bit integers; they belong to the weight that made them and weights of equal
// shape and scheme.
struct Int4Activations {
  AlignedBytes memory;
  kernels::Int4Activations view{};
};

// A stack of equal-shaped packed matrices.
class Int4Stack {
 public:
  // Fails when the kernels cannot multiply such a weight, naming the limit and `name`.
  Int4Stack(const std::string& name, int64_t matrices, int64_t rows, int64_t columns,
            const quant::Scheme& scheme);

  // Arranges one matrix; different ones may be set at the same time.
  void set(int64_t matrix, const quant::QuantWeight& weight);

  int64_t matrices() const { return matrices_; }

  Int4Activations prepare(const float* x, int64_t tokens, int64_t stride) const;
  // out[t, r] = <x[t], w[begin + r]>, r < end - begin; begin is a multiple of 16.
  void product(const Int4Activations& x, int64_t matrix, int64_t begin, int64_t end, float* out,
               int64_t out_stride) const;

 private:
  int64_t matrices_;
  quant::Scheme scheme_;
  kernels::Int4Shape shape_;
  size_t matrix_bytes_;
  AlignedBytes arranged_;
};

}  // namespace quern::ops
