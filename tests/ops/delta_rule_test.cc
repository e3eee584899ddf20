#include "ops/delta_rule.h"

#include <gtest/gtest.h>

#include <random>

namespace quern::ops {
namespace {

DeltaInputs random_inputs(int64_t tokens) {
  at::manual_seed(3);
  return {at::randn({tokens, 2, 16}), at::randn({tokens, 2, 16}), at::randn({tokens, 4, 16}),
          -at::rand({tokens, 4}) * 2, at::rand({tokens, 4})};
}

DeltaInputs part(const DeltaInputs& in, int64_t begin, int64_t end) {
  auto cut = [&](const Tensor& x) { return x.slice(0, begin, end); };
  return {cut(in.q), cut(in.k), cut(in.v), cut(in.decay), cut(in.beta)};
}

double distance(const Tensor& a, const Tensor& b) { return (a - b).abs().max().item<double>(); }

// One sequence in slot 0.
Tensor step(const DeltaInputs& in, Tensor& states) {
  const OngoingSequence sequence{0, in.v.size(0), 0};
  return delta_rule_step(in, {&sequence, 1}, states);
}

TEST(DeltaRule, SequencesOfAPassGoOnFromTheirSlots) {
  prepare_torch();
  const DeltaInputs in = random_inputs(30);
  const OngoingSequence both[] = {{0, 12, 2}, {12, 18, 0}};
  Tensor states = at::zeros({3, 4, 16, 16}), first = at::zeros({1, 4, 16, 16}),
         second = first.clone();
  const Tensor together = delta_rule_step(in, both, states);
  EXPECT_TRUE(at::equal(together.slice(0, 0, 12), step(part(in, 0, 12), first)));
  EXPECT_TRUE(at::equal(together.slice(0, 12), step(part(in, 12, 30), second)));
  EXPECT_TRUE(at::equal(states[2], first[0]));
  EXPECT_TRUE(at::equal(states[0], second[0]));
  EXPECT_EQ(states[1].abs().max().item<float>(), 0);
}

TEST(DeltaRule, ChunksEqualTheRecurrence) {
  prepare_torch();
  for (int64_t tokens : {1, 63, 64, 65, 200}) {
    DeltaInputs in = random_inputs(tokens);
    Tensor state = at::zeros({4, 16, 16}), stepped = at::zeros({1, 4, 16, 16});
    Tensor expected = delta_rule_reference(in, state);
    EXPECT_LT(distance(delta_rule(in, {0, tokens}), expected), 5e-6) << tokens;
    EXPECT_LT(distance(step(in, stepped), expected), 5e-6) << tokens;
    EXPECT_LT(distance(stepped[0], state), 1e-5) << tokens;
  }
}

TEST(DeltaRule, AnyCutOfASequenceGivesTheSame) {
  prepare_torch();
  DeltaInputs in = random_inputs(300);
  Tensor once = at::zeros({1, 4, 16, 16});
  const Tensor whole = step(in, once);
  std::mt19937 random(5);
  for (int round = 0; round < 5; ++round) {
    Tensor state = at::zeros({1, 4, 16, 16});
    for (int64_t begin = 0; begin < 300;) {
      int64_t end = std::min<int64_t>(300, begin + 1 + random() % 90);
      EXPECT_TRUE(at::equal(step(part(in, begin, end), state), whole.slice(0, begin, end)));
      begin = end;
    }
  }
}

TEST(DeltaRule, SequencesOfABatchDoNotMeet) {
  prepare_torch();
  DeltaInputs in = random_inputs(150);
  Tensor both = delta_rule(in, {0, 70, 150});
  EXPECT_LT(distance(both.slice(0, 0, 70), delta_rule(part(in, 0, 70), {0, 70})), 1e-6);
  EXPECT_LT(distance(both.slice(0, 70), delta_rule(part(in, 70, 150), {0, 80})), 1e-6);
}

TEST(DeltaRule, StrongDecayStaysFinite) {
  prepare_torch();
  DeltaInputs in = random_inputs(130);
  in.decay = at::full({130, 4}, -80.0);
  EXPECT_TRUE(delta_rule(in, {0, 130}).isfinite().all().item<bool>());
}

// The recurrence written with LibTorch functions, for its gradients.
Tensor recurrence(const std::vector<Tensor>& x) {
  auto unit = [](const Tensor& t) { return t * (t.square().sum(-1, true) + 1e-6).rsqrt(); };
  Tensor q = (unit(x[0]) / 4.0).repeat_interleave(2, 1), k = unit(x[1]).repeat_interleave(2, 1);
  Tensor state = at::zeros({4, 16, 16});
  std::vector<Tensor> outputs;
  for (int64_t t = 0; t < q.size(0); ++t) {
    state = state * x[3][t].exp().reshape({4, 1, 1});
    Tensor u = x[4][t].unsqueeze(1) * (x[2][t] - (state * k[t].unsqueeze(2)).sum(1));
    state = state + k[t].unsqueeze(2) * u.unsqueeze(1);
    outputs.push_back((state * q[t].unsqueeze(2)).sum(1));
  }
  return at::stack(outputs);
}

TEST(DeltaRule, GradientsEqualTheRecurrences) {
  prepare_torch();
  DeltaInputs in = random_inputs(100);
  Tensor dy = at::randn({100, 4, 16});
  auto gradients = [&](auto&& f) {
    std::vector<Tensor> leaves;
    for (const Tensor& x : {in.q, in.k, in.v, in.decay, in.beta})
      leaves.push_back(x.detach().clone().requires_grad_(true));
    return torch::autograd::grad({f(leaves)}, leaves, {dy});
  };
  auto chunked = gradients([](const std::vector<Tensor>& x) {
    return delta_rule({x[0], x[1], x[2], x[3], x[4]}, {0, 100});
  });
  auto expected = gradients(recurrence);
  for (size_t i = 0; i < expected.size(); ++i)
    EXPECT_LT(distance(chunked[i], expected[i]), 2e-5) << "input " << i;
}

TEST(CausalConv, EqualsItsDefinitionAndGoesOn) {
  prepare_torch();
  at::manual_seed(4);
  Tensor x = at::randn({20, 304}), weight = at::randn({304, 4});
  Tensor got = causal_conv_silu(x, weight, {0, 2, 20});
  for (int64_t t : {0, 1, 2, 3, 10, 19}) {
    const int64_t start = t < 2 ? 0 : 2;
    Tensor sum = at::zeros({304});
    for (int64_t j = 0; j < 4; ++j) {
      if (t - 3 + j >= start) sum = sum + weight.select(1, j) * x[t - 3 + j];
    }
    EXPECT_LT(distance(got[t], at::silu(sum)), 1e-6) << t;
  }
  Tensor whole = causal_conv_silu(x, weight, {0, 20});
  std::mt19937 random(5);
  for (int round = 0; round < 5; ++round) {
    Tensor past = at::zeros({2, 3, 304});
    for (int64_t begin = 0; begin < 20;) {
      const int64_t end = std::min<int64_t>(20, begin + 1 + random() % 6);
      const OngoingSequence sequence{begin, end - begin, 1};
      const Tensor rest = causal_conv_silu_step(x, weight, {&sequence, 1}, past);
      EXPECT_LT(distance(rest.slice(0, begin, end), whole.slice(0, begin, end)), 2e-6);
      begin = end;
    }
    EXPECT_TRUE(at::equal(past[1], x.slice(0, 17)));
    EXPECT_EQ(past[0].abs().max().item<float>(), 0);
  }
}

}  // namespace
}  // namespace quern::ops
