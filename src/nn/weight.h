// One stored matrix, or a stack of equal-shaped ones (the experts of a block), behind a shared
// handle. Its form changes in one place and everything that multiplies by it sees the change: dense
// as the checkpoint holds it, being rounded by AutoRound, or packed in 4 bits.
#pragma once

#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "ops/bf16_matrix.h"
#include "ops/int4.h"
#include "ops/rounding.h"
#include "tensor/tensor.h"

namespace quern::nn {

// Matrices as they are stored, [rows, columns] in bf16, fp16 or fp32; usually views of a mapped
// checkpoint.
struct Dense {
  std::vector<Tensor> matrices;
};
using Rounding = std::shared_ptr<ops::Rounding>;
using Packed = std::shared_ptr<const ops::Int4Stack>;

// Activations ready to be multiplied by a weight of a certain form: as they are, as 16-bit integers
// for packed weights, or in bf16 for weights that are being rounded.
struct Activations {
  const float* x = nullptr;  // [tokens, columns]
  int64_t tokens = 0, stride = 0;
  ops::Int4Activations planes;  // filled for packed weights
  ops::Bf16Left bf16;           // filled for weights whose values are bf16 while they are rounded
};

// The activations once more, as a factor of dL/dw.
struct StepInput {
  const float* x = nullptr;  // [tokens, columns]
  int64_t tokens = 0, stride = 0;
  ops::Bf16Right bf16;
};

class Weight {
 public:
  Weight() = default;
  Weight(std::string name, int64_t rows, int64_t columns,
         std::variant<Dense, Rounding, Packed> form);

  // Of the module; of a stack: the experts' module and the projection, "...mlp.experts.up_proj".
  const std::string& name() const { return stored_->name; }
  // Whether both are handles of one stored weight.
  bool is(const Weight& other) const { return stored_ == other.stored_; }
  int64_t matrices() const;
  int64_t rows() const { return stored_->rows; }
  int64_t columns() const { return stored_->columns; }

  const Dense* dense() const { return std::get_if<Dense>(&stored_->form); }
  const Rounding* rounding() const { return std::get_if<Rounding>(&stored_->form); }
  const Packed* packed() const { return std::get_if<Packed>(&stored_->form); }
  void become(std::variant<Dense, Rounding, Packed> form) const { stored_->form = std::move(form); }

  // The products below run on the calling thread; callers cut rows and tokens into tiles.

  Activations prepare(const float* x, int64_t tokens, int64_t stride) const;
  // out[t, r] = <x[t], w[begin + r]>, r < end - begin; begin is a multiple of kRowTile.
  void product(const Activations& x, int64_t matrix, int64_t begin, int64_t end, float* out,
               int64_t out_stride) const;
  // dx[t] (+)= dy[t] w.
  void product_backward(const float* dy, int64_t tokens, int64_t dy_stride, int64_t matrix,
                        float* dx, int64_t dx_stride, bool accumulate) const;
  StepInput prepare_step(const float* x, int64_t tokens, int64_t stride) const;
  // Hands dL/dw = dy^T x, rows in tiles, to the rounding; nothing to do for other forms.
  void step(const float* dy, int64_t dy_stride, const StepInput& x, int64_t matrix, int64_t begin,
            int64_t end) const;

  static constexpr int64_t kRowTile = 128;

 private:
  struct Stored {
    std::string name;
    int64_t rows, columns;
    std::variant<Dense, Rounding, Packed> form;
  };

  // The matrix as a dense one: stored or fake-quantized.
  const Tensor& matrix_values(int64_t matrix) const;
  bool multiplies_in_bf16() const;

  std::shared_ptr<Stored> stored_;
};

}  // namespace quern::nn
