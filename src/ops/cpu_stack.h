// A stack on the CPU. Callers cut a product into tiles of rows and tokens whose size does not
// depend on the number of threads; every function here computes one tile on the calling thread.
// Activations are fp32.
#pragma once

#include "ops/aligned_bytes.h"
#include "ops/stack.h"

namespace quern::ops {

// The arrangement of the input that a stack needs. Stacks with equal forms can share an arranged
// input.
struct InputForm {
  enum class Kind { plain, bf16, int16 };
  Kind kind = Kind::plain;
  int64_t piece = 0;  // int16: columns that share a grid

  bool operator==(const InputForm&) const = default;
};

// An input, arranged for stacks of one form and one number of columns.
struct ArrangedInput {
  const float* x = nullptr;  // [tokens, columns], rows `stride` apart; must outlive this
  int64_t tokens = 0, stride = 0;
  AlignedBytes memory = {};  // additional data of the form
};

class CpuStack : public Stack {
 public:
  using Stack::Stack;

  // Rows of a tile; a tile begins at a multiple of kRowTile.
  static constexpr int64_t kRowTile = 128;

  virtual InputForm input_form() const { return {}; }
  virtual ArrangedInput arrange(const float* x, int64_t tokens, int64_t stride) const {
    return {x, tokens, stride};
  }
  // out[t, r] = <x[t], w[begin + r]>, r < end - begin. A token's bits do not depend on the other
  // tokens.
  virtual void product(const ArrangedInput& x, int64_t matrix, int64_t begin, int64_t end,
                       float* out, int64_t out_stride) const = 0;

  // dx[t] (+)= dy[t] w, over all rows. Only for stacks that are differentiable().
  virtual bool differentiable() const { return false; }
  virtual void input_gradient(const float* dy, int64_t tokens, int64_t dy_stride, int64_t matrix,
                              float* dx, int64_t dx_stride, bool accumulate) const;

  // The functions below are for stacks that learn.

  // Arranges the input of the product as a factor of dL/dw.
  virtual ArrangedInput arrange_to_learn(const float* x, int64_t tokens, int64_t stride) const {
    return {x, tokens, stride};
  }
  // Takes dL/dw = dy^T x of rows [begin, end). Calls for different rows may run at the same time.
  virtual void learn(const float* dy, int64_t dy_stride, const ArrangedInput& x, int64_t matrix,
                     int64_t begin, int64_t end);
  // Called instead of learn() for a matrix that no token reached.
  virtual void skip(int64_t matrix);
};

// The stack as a CpuStack; QUERN_CHECKs that it is one.
CpuStack& on_cpu(const std::shared_ptr<Stack>& stack);

}  // namespace quern::ops
