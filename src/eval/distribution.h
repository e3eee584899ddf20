// Measures of one row of logits.
#pragma once

#include <cstdint>
#include <span>

namespace quern::eval {

// A softmax over `logits`; keeps a reference to them.
class Distribution {
 public:
  explicit Distribution(std::span<const float> logits);

  bool finite() const;                              // false when a logit is NaN or infinite
  int64_t likeliest() const { return likeliest_; }  // the first one on ties
  double log_prob(int64_t token) const { return logits_[token] - log_sum_; }
  // sum_v p(v) (ln p(v) - ln q(v)) for this p, in nats; NaN if p or q is not finite.
  double divergence(const Distribution& q) const;

 private:
  std::span<const float> logits_;
  int64_t likeliest_ = 0;
  double log_sum_ = 0;  // ln sum_v exp(logit)
};

}  // namespace quern::eval
