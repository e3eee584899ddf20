// Sees what weights are multiplied with, where calibration gathers statistics of inputs.
#pragma once

#include "tensor/tensor.h"

namespace quern::ops {

class InputTap {
 public:
  virtual ~InputTap() = default;
  // Some inputs of one matrix of a stack, before the product: x fp32 [tokens, columns], which may
  // be changed or gone after the call. factors fp32 [tokens]: how much of the product counts in the
  // block's output (routing weights), or undefined for 1. Calls for different matrices may run at
  // the same time; those for one matrix come one after another, in an order that does not depend
  // on the number of threads.
  virtual void see(int64_t matrix, const Tensor& x, const Tensor& factors) = 0;
};

}  // namespace quern::ops
