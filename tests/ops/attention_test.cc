#include "ops/attention.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/threads.h"

namespace quern::ops {
namespace {

// Attention by LibTorch's own functions, one sequence at a time.
Tensor plain_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Bounds& bounds,
                       double scale) {
  std::vector<Tensor> outputs;
  const int64_t group = q.size(1) / k.size(1);
  for (size_t s = 0; s + 1 < bounds.size(); ++s) {
    auto part = [&](const Tensor& x) {
      return x.slice(0, bounds[s], bounds[s + 1]).transpose(0, 1);
    };
    Tensor keys = part(k).repeat_interleave(group, 0), values = part(v).repeat_interleave(group, 0);
    Tensor scores = part(q).matmul(keys.transpose(1, 2)) * scale;
    Tensor future = at::ones({scores.size(1), scores.size(2)}, at::kBool).triu(1);
    outputs.push_back(
        scores.masked_fill(future, -INFINITY).softmax(-1).matmul(values).transpose(0, 1));
  }
  return at::cat(outputs);
}

struct Case {
  Tensor q, k, v;
  Bounds bounds;
};

Case make_case() {
  at::manual_seed(1);
  // Longer and shorter than a query tile, and one token.
  Bounds bounds = {0, 300, 301, 429, 440};
  return {at::randn({440, 6, 32}), at::randn({440, 2, 32}), at::randn({440, 2, 32}), bounds};
}

TEST(Attention, EqualsLibTorch) {
  prepare_torch();
  Case c = make_case();
  Tensor got = attention(c.q, c.k, c.v, c.bounds, 0.2);
  EXPECT_LT((got - plain_attention(c.q, c.k, c.v, c.bounds, 0.2)).abs().max().item<float>(), 2e-6);
}

TEST(Attention, GradientsEqualLibTorchs) {
  prepare_torch();
  Case c = make_case();
  Tensor dy = at::randn({440, 6, 32});
  std::vector<std::vector<Tensor>> gradients;
  for (auto f : {attention, plain_attention}) {
    std::vector<Tensor> leaves;
    for (const Tensor& x : {c.q, c.k, c.v})
      leaves.push_back(x.detach().clone().requires_grad_(true));
    Tensor y = f(leaves[0], leaves[1], leaves[2], c.bounds, 0.2);
    gradients.push_back(torch::autograd::grad({y}, leaves, {dy}));
  }
  for (int i = 0; i < 3; ++i) {
    EXPECT_LT((gradients[0][i] - gradients[1][i]).abs().max().item<float>(), 2e-5) << "input " << i;
  }
}

TEST(Attention, CachedEqualsWhole) {
  prepare_torch();
  Case c = make_case();
  Tensor whole = attention(c.q, c.k, c.v, {0, 440}, 0.2);
  for (int64_t past : {0, 1, 200, 439}) {
    Tensor newest = cached_attention(c.q.slice(0, past), c.k, c.v, 0.2);
    EXPECT_LT((newest - whole.slice(0, past)).abs().max().item<float>(), 2e-6) << past;
  }
}

TEST(Attention, BitsDoNotDependOnThreads) {
  prepare_torch();
  Case c = make_case();
  set_threads(1);
  Tensor one = attention(c.q, c.k, c.v, c.bounds, 0.2);
  set_threads(3);
  EXPECT_TRUE(at::equal(one, attention(c.q, c.k, c.v, c.bounds, 0.2)));
}

}  // namespace
}  // namespace quern::ops
