#include "eval/distribution.h"

#include <cmath>

#include "base/error.h"

namespace quern::eval {

Distribution::Distribution(std::span<const float> logits) : logits_(logits) {
  QUERN_CHECK(!logits.empty());
  for (int64_t i = 1; i < std::ssize(logits); ++i) {
    if (logits[i] > logits[likeliest_]) likeliest_ = i;
  }
  // Subtracts the largest logit, because exp() would overflow.
  const double largest = logits[likeliest_];
  double sum = 0;
  for (float logit : logits) sum += std::exp(logit - largest);
  log_sum_ = largest + std::log(sum);
}

// A NaN makes the sum NaN, and so does infinity minus infinity; minus infinity alone does not
// affect the sum.
bool Distribution::finite() const {
  if (!std::isfinite(log_sum_)) return false;
  for (float logit : logits_) {
    if (!std::isfinite(logit)) return false;
  }
  return true;
}

double Distribution::divergence(const Distribution& q) const {
  QUERN_CHECK(logits_.size() == q.logits_.size());
  const double shift = q.log_sum_ - log_sum_;
  double sum = 0;
  for (size_t i = 0; i < logits_.size(); ++i) {
    const double log_ratio = static_cast<double>(logits_[i]) - q.logits_[i] + shift;
    sum += std::exp(logits_[i] - log_sum_) * log_ratio;
  }
  return sum;
}

}  // namespace quern::eval
