#include "nn/norm.h"

#include "base/error.h"
#include "ops/norm.h"

namespace quern::nn {

Norm::Norm(Tensor factor, double eps)
    : stored_(std::make_shared<Stored>(Stored{std::move(factor), eps})) {}

Tensor Norm::operator()(const Tensor& x) const {
  return ops::rms_norm(x, stored_->factor, stored_->eps);
}

Tensor Norm::gated(const Tensor& x, const Tensor& gate) const {
  return ops::gated_rms_norm(x, gate, stored_->factor, stored_->eps);
}

void Norm::become(Tensor factor) const {
  QUERN_CHECK(factor.sizes() == stored_->factor.sizes() && factor.scalar_type() == at::kFloat);
  stored_->factor = std::move(factor);
}

}  // namespace quern::nn
