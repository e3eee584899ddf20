// Sets a tap on weights for the lifetime of this object. Weights that read one input
// (LinearSite::input) share one tap, which sees the input once.
#pragma once

#include <vector>

#include "nn/weight.h"

namespace quern::nn {

class Tapped {
 public:
  // None of the weights may already have a tap.
  Tapped(std::vector<Weight> weights, ops::InputTap& tap);
  ~Tapped();
  Tapped(const Tapped&) = delete;
  Tapped& operator=(const Tapped&) = delete;

 private:
  std::vector<Weight> weights_;
};

// Shows x, fp32 [tokens, columns], once to each distinct tap of the weights that read it.
void show(const std::vector<Weight>& weights, const Tensor& x);

}  // namespace quern::nn
