// Products of one input with several weights.
#pragma once

#include "ops/stack.h"

namespace quern::ops {

// y = x W^T for the rows of all stacks in order: x fp32 [tokens, columns] -> [tokens, rows of all
// stacks]. Each stack holds one matrix. The input is arranged once for all stacks of one form.
// Gradients flow to x; stacks that learn take their gradients after the gradient of x is computed.
// A token's bits do not depend on the other tokens.
Tensor linear(const Tensor& x, const Stacks& stacks);

}  // namespace quern::ops
