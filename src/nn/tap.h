// Lets a tap see the inputs of weights for as long as this object lives. Weights that read one
// input (LinearSite::input) take one tap together, which sees the input once.
#pragma once

#include <vector>

#include "nn/weight.h"

namespace quern::nn {

class Tapped {
 public:
  // No weight may have a tap already.
  Tapped(std::vector<Weight> weights, ops::InputTap& tap);
  ~Tapped();
  Tapped(const Tapped&) = delete;
  Tapped& operator=(const Tapped&) = delete;

 private:
  std::vector<Weight> weights_;
};

// Shows x, fp32 [tokens, columns], to the taps of weights that read it, to each tap once.
void show(const std::vector<Weight>& weights, const Tensor& x);

}  // namespace quern::nn
