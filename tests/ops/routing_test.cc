// Routing by sigmoid: against a plain implementation for each token, and its gradient.
#include "ops/routing.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

namespace quern::ops {
namespace {

std::vector<int64_t> largest(const std::vector<double>& values, int64_t count) {
  std::vector<int64_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return values[a] > values[b]; });
  order.resize(count);
  return order;
}

// expert -> weight of one token.
std::map<int64_t, double> written_out(const Tensor& logits, const Tensor& bias,
                                      const SigmoidTopK& rule) {
  const int64_t experts = logits.numel(), width = experts / rule.groups;
  std::vector<double> score(experts), wanted(experts), worth(rule.groups);
  for (int64_t e = 0; e < experts; ++e) {
    score[e] = 1 / (1 + std::exp(-logits[e].item<double>()));
    wanted[e] = score[e] + bias[e].item<double>();
  }
  for (int64_t g = 0; g < rule.groups; ++g) {
    const std::vector<double> group(wanted.begin() + g * width, wanted.begin() + (g + 1) * width);
    for (int64_t e : largest(group, std::min<int64_t>(2, width))) worth[g] += group[e];
  }
  const std::vector<int64_t> kept = largest(worth, rule.kept_groups);
  for (int64_t e = 0; e < experts; ++e)
    if (std::ranges::find(kept, e / width) == kept.end()) wanted[e] = -INFINITY;
  std::map<int64_t, double> weights;
  double sum = 0;
  for (int64_t e : largest(wanted, rule.k)) sum += weights[e] = score[e];
  for (auto& [e, weight] : weights) weight *= rule.factor / (rule.normalize ? sum : 1);
  return weights;
}

TEST(SigmoidTopK, IsTheRuleWrittenOut) {
  at::manual_seed(3);
  const Tensor logits = at::randn({50, 24}), bias = at::randn({24});
  for (const SigmoidTopK& rule : {SigmoidTopK{.k = 4}, SigmoidTopK{.k = 1, .factor = 2.5},
                                  SigmoidTopK{.k = 3, .normalize = false},
                                  SigmoidTopK{.k = 5, .groups = 6, .kept_groups = 2, .factor = 1.5},
                                  SigmoidTopK{.k = 6, .groups = 4, .kept_groups = 1}}) {
    const Routing routing = sigmoid_top_k(logits, bias, rule);
    for (int64_t t = 0; t < logits.size(0); ++t) {
      const auto expected = written_out(logits[t], bias, rule);
      ASSERT_EQ(expected.size(), static_cast<size_t>(rule.k));
      for (int64_t slot = 0; slot < rule.k; ++slot) {
        const auto found = expected.find(routing.experts[t][slot].item<int64_t>());
        ASSERT_NE(found, expected.end()) << "token " << t;
        EXPECT_NEAR(routing.weights[t][slot].item<double>(), found->second, 1e-6);
      }
    }
  }
}

// Negative biased scores of a chosen group still win over experts of excluded groups.
TEST(SigmoidTopK, ExcludedGroupsAreNeverChosen) {
  const Tensor logits = at::zeros({1, 4});
  const Tensor bias = at::tensor({-0.6f, -9.0f, -2.0f, -2.0f});
  const Routing routing = sigmoid_top_k(logits, bias, {.k = 2, .groups = 2, .kept_groups = 1});
  EXPECT_TRUE(
      std::get<0>(routing.experts.sort(-1)).equal(at::tensor({2, 3}, at::kLong).reshape({1, 2})));
}

TEST(SigmoidTopK, TheBiasIsNoPartOfTheWeights) {
  const Tensor logits = at::tensor({2.0f, 0.0f, -1.0f}).reshape({1, 3});
  const Routing routing =
      sigmoid_top_k(logits, at::tensor({0.0f, 0.0f, 5.0f}), {.k = 1, .normalize = false});
  EXPECT_EQ(routing.experts.item<int64_t>(), 2);
  EXPECT_NEAR(routing.weights.item<double>(), 1 / (1 + std::exp(1.0)), 1e-7);
}

TEST(SigmoidTopK, GradientOfTheWeights) {
  at::manual_seed(5);
  const Tensor bias = at::randn({8});
  Tensor logits = at::randn({3, 8}).requires_grad_();
  const SigmoidTopK rule{.k = 3, .factor = 1.5};
  const Tensor factors = at::randn({3, 3});
  torch::autograd::backward({(sigmoid_top_k(logits, bias, rule).weights * factors).sum()}, {});
  const double step = 1e-2;
  for (int64_t e = 0; e < 8; ++e) {
    auto at_offset = [&](double offset) {
      Tensor moved = logits.detach().clone();
      moved.select(1, e).add_(offset);
      return (sigmoid_top_k(moved, bias, rule).weights * factors).sum(-1);
    };
    const Tensor slope = (at_offset(step) - at_offset(-step)) / (2 * step);
    EXPECT_LT((slope - logits.grad().select(1, e)).abs().max().item<double>(), 1e-3) << e;
  }
}

}  // namespace
}  // namespace quern::ops
