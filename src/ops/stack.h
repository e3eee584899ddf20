// Equal-shaped matrices as something multiplies by them; a stack of one is the ordinary case. What
// multiplies (ops/linear.h, ops/experts.h) cannot tell how the numbers are stored. The class of a
// stack decides where it is computed: on the CPU it is a CpuStack (ops/cpu_stack.h), and its inputs
// are tensors of the CPU.
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

  // Whether a backward pass changes the weights. A product with such a stack is part of the graph
  // even where its input needs no gradient.
  virtual bool learns() const { return false; }

 private:
  int64_t matrices_, rows_, columns_;
};

using Stacks = std::vector<std::shared_ptr<Stack>>;

}  // namespace quern::ops
