#include "ops/attention.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/threads.h"

namespace quern::ops {
namespace {

// Attention by LibTorch's own functions, one sequence at a time.
Tensor plain_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Bounds& bounds,
                       double scale, int64_t window = 0) {
  std::vector<Tensor> outputs;
  const int64_t group = q.size(1) / k.size(1);
  for (size_t s = 0; s + 1 < bounds.size(); ++s) {
    auto part = [&](const Tensor& x) {
      return x.slice(0, bounds[s], bounds[s + 1]).transpose(0, 1);
    };
    Tensor keys = part(k).repeat_interleave(group, 0), values = part(v).repeat_interleave(group, 0);
    Tensor scores = part(q).matmul(keys.transpose(1, 2)) * scale;
    Tensor all = at::ones({scores.size(1), scores.size(2)}, at::kBool);
    Tensor unseen = all.triu(1);
    if (window > 0) unseen = unseen.logical_or(all.tril(-window));
    outputs.push_back(
        scores.masked_fill(unseen, -INFINITY).softmax(-1).matmul(values).transpose(0, 1));
  }
  return at::cat(outputs);
}

struct Case {
  Tensor q, k, v;
  Bounds bounds;
};

// Queries, keys and values are parts of one tensor, like the output of a fused projection; keys are
// made dense, like the output of a rotation.
Case make_case() {
  at::manual_seed(1);
  // Longer and shorter than a query tile, and one token.
  Bounds bounds = {0, 300, 301, 429, 440};
  Tensor fused = at::randn({440, 10, 32});
  return {fused.narrow(1, 0, 6), fused.narrow(1, 6, 2).contiguous(), fused.narrow(1, 8, 2), bounds};
}

// One key, less and more than a query tile, and more than any sequence has.
constexpr int64_t kWindows[] = {0, 1, 7, 128, 200, 1000};

double distance(const Tensor& a, const Tensor& b) { return (a - b).abs().max().item<double>(); }

TEST(Attention, EqualsLibTorch) {
  prepare_torch();
  Case c = make_case();
  for (int64_t window : kWindows) {
    Tensor got = attention(c.q, c.k, c.v, c.bounds, 0.2, window);
    EXPECT_LT(distance(got, plain_attention(c.q, c.k, c.v, c.bounds, 0.2, window)), 2e-6) << window;
  }
}

TEST(Attention, GradientsEqualLibTorchs) {
  prepare_torch();
  Case c = make_case();
  Tensor dy = at::randn({440, 6, 32});
  for (int64_t window : kWindows) {
    std::vector<std::vector<Tensor>> gradients;
    for (auto f : {+attention, +plain_attention}) {
      std::vector<Tensor> leaves;
      for (const Tensor& x : {c.q, c.k, c.v})
        leaves.push_back(x.detach().clone().requires_grad_(true));
      Tensor y = f(leaves[0], leaves[1], leaves[2], c.bounds, 0.2, window);
      gradients.push_back(torch::autograd::grad({y}, leaves, {dy}));
    }
    for (int i = 0; i < 3; ++i)
      EXPECT_LT(distance(gradients[0][i], gradients[1][i]), 2e-5)
          << "input " << i << ", " << window;
  }
}

// Keys and values of another layer take no gradient.
TEST(Attention, GradientOfQueriesAlone) {
  prepare_torch();
  Case c = make_case();
  Tensor dy = at::randn({440, 6, 32});
  std::vector<Tensor> gradients;
  for (auto f : {+attention, +plain_attention}) {
    Tensor q = c.q.detach().clone().requires_grad_(true);
    gradients.push_back(torch::autograd::grad({f(q, c.k, c.v, c.bounds, 0.2, 50)}, {q}, {dy})[0]);
  }
  EXPECT_LT(distance(gradients[0], gradients[1]), 2e-5);
}

TEST(Attention, BitsDoNotDependOnThreads) {
  prepare_torch();
  Case c = make_case();
  set_threads(1);
  Tensor one = attention(c.q, c.k, c.v, c.bounds, 0.2);
  set_threads(3);
  EXPECT_TRUE(at::equal(one, attention(c.q, c.k, c.v, c.bounds, 0.2)));
}

TEST(PatchAttention, EqualsTheFormula) {
  prepare_torch();
  at::NoGradGuard no_grad;
  at::manual_seed(5);
  for (int64_t patches : {1, 127, 128, 129, 300}) {
    const auto qkv = at::randn({patches, 3, 4, 24}).unbind(1);  // each with the strides of all
    const Tensor output = patch_attention(qkv[0], qkv[1], qkv[2], 0.3);
    auto head = [](const Tensor& x) { return x.transpose(0, 1).to(at::kDouble); };
    const Tensor weights = at::softmax(0.3 * head(qkv[0]).matmul(head(qkv[1]).transpose(1, 2)), -1);
    const Tensor expected = weights.matmul(head(qkv[2])).transpose(0, 1);
    EXPECT_LT((output - expected).abs().max().item<double>(), 2e-6) << patches;
  }
}

TEST(PatchAttention, ThreadsDoNotChangeTheBits) {
  prepare_torch();
  at::NoGradGuard no_grad;
  const Tensor x = at::randn({500, 3, 16});
  set_threads(1);
  const Tensor one = patch_attention(x, x, x, 1.0);
  set_threads(3);
  EXPECT_TRUE(at::equal(patch_attention(x, x, x, 1.0), one));
}

}  // namespace
}  // namespace quern::ops
