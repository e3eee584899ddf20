#include "ops/axial_rope.h"

#include <gtest/gtest.h>

#include <cmath>

namespace quern::ops {
namespace {

TEST(AxialRopeTest, TurnsPairs) {
  prepare_torch();
  at::NoGradGuard no_grad;
  const Tensor angles = axial_angles(at::tensor({0, 3}, at::kLong), 100, 4);
  EXPECT_NEAR(angles[1][1].item<double>(), 0.3, 1e-6);  // 3 / 100^(2 / 4)
  const Tensor x = at::tensor({1.f, 2.f, 3.f, 4.f}).expand({2, 1, 4}).contiguous();
  const Tensor y = rotated(x, angles);
  EXPECT_TRUE(at::equal(y[0], x[0]));
  EXPECT_NEAR(y[1][0][1].item<double>(), 2 * std::cos(0.3) - 4 * std::sin(0.3), 1e-6);
  EXPECT_NEAR(y[1][0][3].item<double>(), 4 * std::cos(0.3) + 2 * std::sin(0.3), 1e-6);
}

}  // namespace
}  // namespace quern::ops
