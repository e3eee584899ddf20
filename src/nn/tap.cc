#include "nn/tap.h"

#include <algorithm>

#include "base/error.h"

namespace quern::nn {

Tapped::Tapped(std::vector<Weight> weights, ops::InputTap& tap) : weights_(std::move(weights)) {
  for (const Weight& weight : weights_) {
    QUERN_CHECK(!weight.tap());
    weight.stored_->tap = &tap;
  }
}

Tapped::~Tapped() {
  for (const Weight& weight : weights_) weight.stored_->tap = nullptr;
}

void show(const std::vector<Weight>& weights, const Tensor& x) {
  std::vector<ops::InputTap*> shown;
  for (const Weight& weight : weights) {
    ops::InputTap* tap = weight.tap();
    if (!tap || std::ranges::find(shown, tap) != shown.end()) continue;
    shown.push_back(tap);
    at::NoGradGuard no_grad;
    tap->see(0, x.detach().contiguous(), Tensor());
  }
}

}  // namespace quern::nn
