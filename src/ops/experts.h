// The routed experts of a block: three stacks with one matrix per expert, computed together.
#pragma once

#include "ops/activation.h"
#include "ops/input_tap.h"
#include "ops/routing.h"
#include "ops/stack.h"

namespace quern::ops {

struct ExpertStacks {
  std::shared_ptr<Stack> gate, up;  // [inner, hidden] each
  std::shared_ptr<Stack> down;      // [hidden, inner]
  Activation activation = Activation::silu;
};

// Taps of the two inputs of an expert: the input of gate and up, and the input of down. Null: no
// tap.
struct ExpertTaps {
  InputTap* in = nullptr;
  InputTap* out = nullptr;
};

// x fp32 [tokens, hidden] -> sum over a token's experts of weight * down(act(gate x) * up x), added
// in the order of the experts' numbers. Gradients flow to x and to the routing weights; stacks that
// learn take their gradients during the backward pass. A token's bits do not depend on the other
// tokens. `lists` is sort_by_expert of the routing.
Tensor experts(const Tensor& x, const Routing& routing, const ExpertLists& lists,
               const ExpertStacks& stacks, const ExpertTaps& taps = {});

}  // namespace quern::ops
