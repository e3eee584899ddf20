#include "ops/delta_rule.h"

#include <gtest/gtest.h>

#include <functional>
#include <random>

#include "base/error.h"
#include "base/threads.h"

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
  for (int64_t tokens : {1, 63, 64, 65, 130, 200}) {
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

// The chunks in LibTorch functions, for their values and gradients in any type: one sequence.
Tensor chunks_in_torch(const std::vector<Tensor>& x) {
  constexpr int64_t kChunk = 64;
  const int64_t tokens = x[2].size(0), heads = x[2].size(1), key_width = x[1].size(2),
                value_width = x[2].size(2), repeat = heads / x[1].size(1),
                chunks = (tokens + kChunk - 1) / kChunk;
  const auto options = x[0].options().requires_grad(false);
  auto unit = [](const Tensor& t) { return t * (t.square().sum(-1, true) + 1e-6).rsqrt(); };
  // [tokens, heads, width] -> [heads, chunks, 64, width], padded with zeros, which neither decay a
  // state nor add to it.
  auto in_chunks = [&](const Tensor& t) {
    const Tensor padded =
        at::constant_pad_nd(t.transpose(0, 1), {0, 0, 0, chunks * kChunk - tokens});
    return padded.reshape({t.size(1), chunks, kChunk, t.size(2)});
  };
  const Tensor q = in_chunks(unit(x[0]) / std::sqrt(static_cast<double>(key_width)))
                       .repeat_interleave(repeat, 0),
               k = in_chunks(unit(x[1])).repeat_interleave(repeat, 0), v = in_chunks(x[2]),
               total = in_chunks(x[3].unsqueeze(-1)).cumsum(2),
               beta = in_chunks(x[4].unsqueeze(-1));
  const Tensor lower = at::ones({kChunk, kChunk}, options).tril();
  const Tensor between = (total - total.transpose(2, 3)).mul(lower).exp() * lower;
  const Tensor system = (k * beta).matmul(k.transpose(2, 3)) * between;
  const Tensor solved = at::linalg_solve_triangular(
      system, at::cat({v * beta, k * beta * total.exp()}, -1), /*upper=*/false, /*left=*/true,
      /*unitriangular=*/true);
  const Tensor u_own = solved.narrow(-1, 0, value_width),
               k_carried = solved.narrow(-1, value_width, key_width),
               q_from_state = q * total.exp(), scores = q.matmul(k.transpose(2, 3)) * between,
               last = total.narrow(2, kChunk - 1, 1),
               k_to_state = (k * (last - total).exp()).transpose(2, 3);
  Tensor state = at::zeros({heads, key_width, value_width}, options);
  std::vector<Tensor> outputs;
  for (int64_t c = 0; c < chunks; ++c) {
    const Tensor u = u_own.select(1, c) - k_carried.select(1, c).matmul(state);
    outputs.push_back(q_from_state.select(1, c).matmul(state) + scores.select(1, c).matmul(u));
    state = state * last.exp().select(1, c) + k_to_state.select(1, c).matmul(u);
  }
  return at::stack(outputs, 1)
      .reshape({heads, chunks * kChunk, value_width})
      .narrow(1, 0, tokens)
      .transpose(0, 1);
}

using Function = std::function<Tensor(const std::vector<Tensor>& inputs)>;

// The output and the gradients of q, k, v, decay and beta, in the type of `type`.
std::vector<Tensor> with_gradients(const DeltaInputs& in, const Tensor& dy, DType type,
                                   const Function& f) {
  std::vector<Tensor> leaves;
  for (const Tensor& x : {in.q, in.k, in.v, in.decay, in.beta})
    leaves.push_back(x.to(type).detach().clone().requires_grad_(true));
  const Tensor y = f(leaves);
  auto all = torch::autograd::grad({y}, leaves, {dy.to(type)});
  all.push_back(y.detach());
  return all;
}

Function chunks(const Bounds& bounds) {
  return [bounds](const std::vector<Tensor>& x) {
    return delta_rule({x[0], x[1], x[2], x[3], x[4]}, bounds);
  };
}

TEST(DeltaRule, ValuesAndGradientsAreThoseOfTheChunksInDouble) {
  prepare_torch();
  for (int64_t tokens : {1, 63, 64, 65, 130}) {
    for (double decay : {0.02, 2.0, 80.0}) {
      DeltaInputs in = random_inputs(tokens);
      in.decay = in.decay * (decay / 2);
      const Tensor dy = at::randn({tokens, 4, 16});
      const auto got = with_gradients(in, dy, at::kFloat, chunks({0, tokens})),
                 expected = with_gradients(in, dy, at::kDouble, chunks_in_torch);
      for (size_t i = 0; i < expected.size(); ++i)
        EXPECT_LT(distance(got[i], expected[i]),
                  2e-5 * (1 + expected[i].abs().max().item<double>()))
            << "input " << i << " of " << tokens << " tokens, decay " << decay;
    }
  }
}

TEST(DeltaRule, SequencesOfABatchDoNotMeet) {
  prepare_torch();
  const DeltaInputs in = random_inputs(150);
  const Tensor dy = at::randn({150, 4, 16});
  const auto both = with_gradients(in, dy, at::kFloat, chunks({0, 70, 70, 150})),
             first =
                 with_gradients(part(in, 0, 70), dy.slice(0, 0, 70), at::kFloat, chunks({0, 70})),
             second =
                 with_gradients(part(in, 70, 150), dy.slice(0, 70), at::kFloat, chunks({0, 80}));
  for (size_t i = 0; i < both.size(); ++i)
    EXPECT_TRUE(at::equal(both[i], at::cat({first[i], second[i]}))) << i;
}

TEST(DeltaRule, InputsThatAreViewsGiveTheSame) {
  prepare_torch();
  const DeltaInputs in = random_inputs(70);
  const Tensor wide = at::cat({in.q.flatten(1), in.k.flatten(1), in.v.flatten(1)}, 1);
  const std::vector<Tensor> parts = wide.split_with_sizes({32, 32, 64}, 1);
  const Tensor got = delta_rule({parts[0].unflatten(1, {2, 16}), parts[1].unflatten(1, {2, 16}),
                                 parts[2].unflatten(1, {4, 16}), in.decay, in.beta},
                                {0, 70});
  EXPECT_TRUE(at::equal(got, delta_rule(in, {0, 70})));
}

TEST(DeltaRule, TheNumberOfThreadsDoesNotMatter) {
  prepare_torch();
  const DeltaInputs in = random_inputs(300);
  const Tensor dy = at::randn({300, 4, 16});
  const int before = threads();
  set_threads(1);
  const auto expected = with_gradients(in, dy, at::kFloat, chunks({0, 100, 300}));
  for (int count : {2, 3}) {
    set_threads(count);
    const auto got = with_gradients(in, dy, at::kFloat, chunks({0, 100, 300}));
    for (size_t i = 0; i < got.size(); ++i) EXPECT_TRUE(at::equal(got[i], expected[i])) << i;
  }
  set_threads(before);
}

// With a decay of exp(-80) a token sees only itself: o = (q . k) beta v.
TEST(DeltaRule, StrongDecayForgetsTheOthers) {
  prepare_torch();
  DeltaInputs in = random_inputs(130);
  in.decay = at::full({130, 4}, -80.0);
  auto unit = [](const Tensor& t) { return t * (t.square().sum(-1, true) + 1e-6).rsqrt(); };
  const Tensor score = (unit(in.q) * unit(in.k)).sum(-1, true).repeat_interleave(2, 1) / 4;
  EXPECT_LT(distance(delta_rule(in, {0, 130}), score * in.beta.unsqueeze(-1) * in.v), 1e-6);
}

TEST(DeltaRule, WidthsThatTheKernelsCannotRunAreRefused) {
  prepare_torch();
  const DeltaInputs in{at::randn({3, 2, 8}), at::randn({3, 2, 8}), at::randn({3, 4, 16}),
                       -at::rand({3, 4}), at::rand({3, 4})};
  EXPECT_THROW(delta_rule(in, {0, 3}), Error);
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
