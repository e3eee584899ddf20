// Products of activations with weights that read one input.
#pragma once

#include "ops/stack.h"

namespace quern::ops {

// y = x W^T for the rows of all stacks, one after another: x fp32 [tokens, columns] -> [tokens,
// rows of all]. Each stack holds one matrix. The input is arranged once for stacks of one form. The
// gradient of x flows back; stacks that learn take theirs when it does, after that of x is made.
// A token's bits do not depend on the other tokens.
Tensor linear(const Tensor& x, const Stacks& stacks);

}  // namespace quern::ops
