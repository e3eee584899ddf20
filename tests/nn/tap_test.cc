// Taps see the inputs of weights, once for each input.
#include "nn/tap.h"

#include <gtest/gtest.h>

#include <map>
#include <mutex>

#include "nn/experts.h"
#include "nn/linear.h"

namespace quern::nn {
namespace {

struct Notes : ops::InputTap {
  void see(int64_t matrix, const Tensor& x, const Tensor& factors) override {
    const std::lock_guard lock(mutex);
    inputs[matrix].push_back(x.clone());
    if (factors.defined()) weights[matrix] = factors;
  }

  std::mutex mutex;
  std::map<int64_t, std::vector<Tensor>> inputs;
  std::map<int64_t, Tensor> weights;
};

Weight weight(const std::string& name, const std::vector<Tensor>& matrices) {
  return Weight(name, std::make_shared<ops::DenseStack>(matrices));
}

TEST(TapTest, LinearsThatReadOneInputShowItOnce) {
  prepare_torch();
  at::NoGradGuard no_grad;
  const Weight q = weight("q", {at::randn({8, 16})}), k = weight("k", {at::randn({4, 16})}),
               v = weight("v", {at::randn({4, 16})});
  const Linear qkv({q, k, v}, {8, 4, 4}, {});
  const Tensor x = at::randn({5, 16});
  Notes notes, of_v;
  {
    const Tapped tapped({q, k}, notes);
    const Tapped other({v}, of_v);
    qkv(x);
    qkv(x.narrow(0, 0, 2));
  }
  qkv(x);
  ASSERT_EQ(notes.inputs[0].size(), 2u);
  EXPECT_TRUE(at::equal(notes.inputs[0][0], x));
  EXPECT_TRUE(at::equal(notes.inputs[0][1], x.narrow(0, 0, 2)));
  EXPECT_EQ(of_v.inputs[0].size(), 2u);
}

TEST(TapTest, ExpertsShowTheirTokensAndWhatTheyWeigh) {
  prepare_torch();
  at::NoGradGuard no_grad;
  std::vector<Tensor> gate, up, down;
  for (int e = 0; e < 3; ++e) {
    gate.push_back(at::randn({8, 16}));
    up.push_back(at::randn({8, 16}));
    down.push_back(at::randn({16, 8}));
  }
  const Experts experts(weight("gate", gate), weight("up", up), weight("down", down),
                        Activation::silu);
  const Tensor x = at::randn({4, 16});
  const Tensor chosen = at::tensor({0, 2, 2, 0, 0, 2, 2, 0}, at::kLong).view({4, 2});
  const Tensor p = at::rand({4, 2});
  Notes in, out;
  {
    const Tapped of_in({experts.gate_proj(), experts.up_proj()}, in);
    const Tapped of_out({experts.down_proj()}, out);
    experts(x, {chosen, p}, nullptr);
  }
  EXPECT_EQ(in.inputs.size(), 2u);  // expert 1 is idle
  for (int64_t e : {0, 2}) {
    ASSERT_EQ(in.inputs[e].size(), 1u);
    EXPECT_TRUE(at::equal(in.inputs[e][0], x));
    const Tensor act = at::silu(at::matmul(x, gate[e].t())) * at::matmul(x, up[e].t());
    EXPECT_TRUE(at::allclose(out.inputs[e][0], act, 1e-4, 1e-5));
    EXPECT_TRUE(at::equal(in.weights[e], (p * (chosen == e)).sum(-1)));
    EXPECT_TRUE(at::equal(out.weights[e], in.weights[e]));
  }
}

}  // namespace
}  // namespace quern::nn
