#include "ops/norm.h"

#include <gtest/gtest.h>

namespace quern::ops {
namespace {

Tensor formula(const Tensor& x, double eps) {
  const Tensor exact = x.to(at::kDouble);
  return exact * (exact.square().mean(-1, /*keepdim=*/true) + eps).rsqrt();
}

double distance(const Tensor& a, const Tensor& b) { return (a - b).abs().max().item<double>(); }

class NormTest : public testing::Test {
 protected:
  NormTest() {
    prepare_torch();
    at::manual_seed(3);
  }
};

// Widths that the kernel supports, and others; strided rows, like those of attention's heads.
TEST_F(NormTest, EqualsTheFormula) {
  for (int64_t width : {16, 24, 128, 2048}) {
    const Tensor x = at::randn({5, 2, 2 * width}).narrow(2, width, width), w = at::randn({width});
    const Tensor expected = formula(x, 1e-3) * w;
    EXPECT_LT(distance(rms_norm(x, w, 1e-3), expected), 2e-6) << "with gradients, " << width;
    at::NoGradGuard no_grad;
    EXPECT_LT(distance(rms_norm(x, w, 1e-3), expected), 2e-6) << width;
    EXPECT_LT(distance(rms_norm(x, Tensor(), 1e-3), formula(x, 1e-3)), 2e-6) << width;
    const Tensor gate = at::randn(x.sizes());
    EXPECT_LT(distance(gated_rms_norm(x, gate, w, 1e-3), expected * at::silu(gate.to(at::kDouble))),
              1e-5);
    EXPECT_TRUE(rms_norm(at::zeros({1, width}), w, 1e-6).eq(0).all().item<bool>());
  }
}

TEST_F(NormTest, ARowDoesNotDependOnTheOthers) {
  at::NoGradGuard no_grad;
  for (int64_t width : {24, 256}) {
    const Tensor x = at::randn({1000, width}), w = at::randn({width}), all = rms_norm(x, w, 1e-6);
    for (int64_t row : {0, 1, 500, 999})
      EXPECT_TRUE(at::equal(rms_norm(x.narrow(0, row, 1), w, 1e-6)[0], all[row]));
  }
}

TEST_F(NormTest, GradientsAreThoseOfTheFormula) {
  const Tensor w = at::randn({64}), dy = at::randn({7, 64});
  auto gradient = [&](auto&& f) {
    const Tensor x = at::linspace(-2, 3, 7 * 64).reshape({7, 64}).requires_grad_(true);
    return torch::autograd::grad({f(x)}, {x}, {dy})[0];
  };
  const Tensor ours = gradient([&](const Tensor& x) { return rms_norm(x, w, 1e-5); });
  const Tensor theirs = gradient([&](const Tensor& x) {
    return x * (x.square().mean(-1, /*keepdim=*/true) + 1e-5).rsqrt() * w;
  });
  EXPECT_LT(distance(ours, theirs), 1e-6);
}

}  // namespace
}  // namespace quern::ops
