// Receives the inputs of weights, for methods that gather statistics of them.
#pragma once

#include "tensor/tensor.h"

namespace quern::ops {

class InputTap {
 public:
  virtual ~InputTap() = default;
  // Receives some inputs of one matrix of a stack before the product: x fp32 [tokens, columns],
  // valid only during the call. factors fp32 [tokens]: the share of the product in the block's
  // output (routing weights); undefined: 1. Calls for different matrices may run at the same time;
  // calls for one matrix run one after another, in an order that does not depend on the number of
  // threads.
  virtual void see(int64_t matrix, const Tensor& x, const Tensor& factors) = 0;
};

}  // namespace quern::ops
