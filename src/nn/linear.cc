#include "nn/linear.h"

#include <numeric>

#include "nn/tap.h"
#include "ops/linear.h"
#include "ops/norm.h"

namespace quern::nn {

Linear::Linear(Weight weight, Tensor bias)
    : weights_{std::move(weight)}, rows_{weights_[0].rows()}, bias_(std::move(bias)) {}

Linear::Linear(std::vector<Weight> weights, std::vector<int64_t> rows, Tensor bias)
    : weights_(std::move(weights)), rows_(std::move(rows)), bias_(std::move(bias)) {
  int64_t all = std::accumulate(rows_.begin(), rows_.end(), int64_t{0});
  for (const Weight& weight : weights_) all -= weight.rows();
  QUERN_CHECK(all == 0);
}

Linear Linear::joined(const Linear& first, const Linear& second) {
  QUERN_CHECK(!first.bias_.defined() && !second.bias_.defined());
  std::vector<Weight> weights = first.weights_;
  weights.insert(weights.end(), second.weights_.begin(), second.weights_.end());
  std::vector<int64_t> rows = first.rows_;
  rows.insert(rows.end(), second.rows_.begin(), second.rows_.end());
  return Linear(std::move(weights), std::move(rows), {});
}

Tensor Linear::operator()(const Tensor& x) const {
  show(weights_, x);
  ops::Stacks stacks;
  for (const Weight& weight : weights_) stacks.push_back(weight.stack());
  const Tensor y = ops::linear(x, stacks);
  return bias_.defined() ? y + bias_ : y;
}

std::vector<Tensor> Linear::parts(const Tensor& x) const {
  return (*this)(x).split_with_sizes(rows_, -1);
}

Tensor Mlp::operator()(const Tensor& x) const {
  auto [gate, up] = gate_up_.parts<2>(x);
  return down_proj_(activation_ == Activation::silu ? ops::silu_mul(gate, up)
                                                    : ops::gelu_tanh_mul(gate, up));
}

}  // namespace quern::nn
