// Equal-shaped matrices that activations are multiplied by; usually a stack holds one matrix. The
// products (ops/linear.h, ops/experts.h) do not depend on how the numbers are stored. The class of
// a stack decides its device: a CpuStack (ops/cpu_stack.h) takes CPU tensors.
#pragma once

#include <memory>
#include <vector>

#include "tensor/tensor.h"

namespace quern::ops {

class Stack {
 public:
  Stack(int64_t matrices, int64_t rows, int64_t columns)
      : matrices_(matrices), rows_(rows), columns_(columns) {}
  virtual ~Stack() = default;
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;

  int64_t matrices() const { return matrices_; }
  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }

  // Whether a backward pass changes the weights. If so, a product with the stack is part of the
  // graph even if its input needs no gradient.
  virtual bool learns() const { return false; }

 private:
  int64_t matrices_, rows_, columns_;
};

using Stacks = std::vector<std::shared_ptr<Stack>>;

}  // namespace quern::ops
