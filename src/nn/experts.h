// The routed experts of a block: three stacks of equal-shaped matrices, computed together.
#pragma once

#include "nn/weight.h"
#include "ops/activation.h"
#include "ops/routing.h"

namespace quern::nn {

using ops::Activation;

class Experts {
 public:
  Experts() = default;
  Experts(Weight gate, Weight up, Weight down, Activation activation)
      : gate_proj_(std::move(gate)),
        up_proj_(std::move(up)),
        down_proj_(std::move(down)),
        activation_(activation) {}

  // x fp32 [tokens, hidden] -> sum over a token's experts of weight * down(act(gate x) * up x).
  // Gradients flow to x and to the routing weights. Fills `pairs_per_expert` if given. gate_proj
  // and up_proj read one input and share one tap.
  Tensor operator()(const Tensor& x, const ops::Routing& routing,
                    std::vector<int64_t>* pairs_per_expert) const;

  const Weight& gate_proj() const { return gate_proj_; }
  const Weight& up_proj() const { return up_proj_; }
  const Weight& down_proj() const { return down_proj_; }

 private:
  Weight gate_proj_, up_proj_, down_proj_;
  Activation activation_ = Activation::silu;
};

}  // namespace quern::nn
