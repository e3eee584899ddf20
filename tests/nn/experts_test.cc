// The experts of a block against the same arithmetic in plain tensor functions, values and
// gradients.
#include "nn/experts.h"

#include <gtest/gtest.h>

namespace quern::nn {
namespace {

constexpr int64_t kExperts = 5, kHidden = 24, kInner = 40, kTokens = 17, kChosen = 2;

class ExpertsTest : public testing::TestWithParam<Activation> {
 protected:
  ExpertsTest() {
    prepare_torch();
    at::manual_seed(9);
    for (int64_t e = 0; e < kExperts; ++e) {
      gate_.push_back(at::randn({kInner, kHidden}) / 4);
      up_.push_back(at::randn({kInner, kHidden}) / 4);
      down_.push_back(at::randn({kHidden, kInner}) / 4);
    }
    x_ = at::randn({kTokens, kHidden}).requires_grad_();
    p_ = at::rand({kTokens, kChosen}).requires_grad_();
    chosen_ = at::rand({kTokens, kExperts})
                  .argsort(/*dim=*/int64_t{-1}, /*descending=*/false)
                  .narrow(1, 0, kChosen)
                  .contiguous();
  }

  Tensor plain() const {
    Tensor out = at::zeros({kTokens, kHidden});
    for (int64_t e = 0; e < kExperts; ++e) {
      const Tensor gate = at::matmul(x_, gate_[e].t());
      const Tensor act = GetParam() == Activation::silu ? at::silu(gate) : at::gelu(gate, "tanh");
      const Tensor y = at::matmul(act * at::matmul(x_, up_[e].t()), down_[e].t());
      out = out + y * (p_ * (chosen_ == e)).sum(-1, /*keepdim=*/true);
    }
    return out;
  }

  Experts experts() const {
    auto weight = [](const char* name, const std::vector<Tensor>& matrices) {
      return Weight(name, std::make_shared<ops::DenseStack>(matrices));
    };
    return Experts(weight("gate", gate_), weight("up", up_), weight("down", down_), GetParam());
  }

  std::vector<Tensor> gate_, up_, down_;
  Tensor x_, p_, chosen_;
};

TEST_P(ExpertsTest, ValuesAndGradients) {
  const Tensor direction = at::randn({kTokens, kHidden});
  const Tensor expected = plain();
  const auto wanted = torch::autograd::grad({(expected * direction).sum()}, {x_, p_});
  const Tensor got = experts()(x_, {chosen_, p_}, nullptr);
  const auto gradients = torch::autograd::grad({(got * direction).sum()}, {x_, p_});
  EXPECT_TRUE(at::allclose(got, expected, 1e-4, 1e-5));
  EXPECT_TRUE(at::allclose(gradients[0], wanted[0], 1e-4, 1e-5));
  EXPECT_TRUE(at::allclose(gradients[1], wanted[1], 1e-4, 1e-5));
}

INSTANTIATE_TEST_SUITE_P(Activations, ExpertsTest,
                         testing::Values(Activation::silu, Activation::gelu_tanh));

}  // namespace
}  // namespace quern::nn
