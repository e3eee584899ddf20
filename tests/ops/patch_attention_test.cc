// Attention among patches against the textbook formula, in tiles and out of strided memory.
#include "ops/patch_attention.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/threads.h"
#include "ops/axial_rope.h"

namespace quern::ops {
namespace {

TEST(PatchAttentionTest, EqualsTheFormula) {
  prepare_torch();
  at::NoGradGuard no_grad;
  at::manual_seed(5);
  for (int64_t patches : {1, 127, 128, 129, 300}) {
    const auto qkv =
        at::randn({patches, 3, 4, 24}).unbind(1);  // each with the strides of the whole tensor
    const Tensor output = patch_attention(qkv[0], qkv[1], qkv[2], 0.3);
    auto head = [](const Tensor& x) { return x.transpose(0, 1).to(at::kDouble); };
    const Tensor weights = at::softmax(0.3 * head(qkv[0]).matmul(head(qkv[1]).transpose(1, 2)), -1);
    const Tensor expected = weights.matmul(head(qkv[2])).transpose(0, 1);
    EXPECT_LT((output - expected).abs().max().item<double>(), 2e-6) << patches;
  }
}

TEST(PatchAttentionTest, ThreadsDoNotChangeTheBits) {
  prepare_torch();
  at::NoGradGuard no_grad;
  const Tensor x = at::randn({500, 3, 16});
  set_threads(1);
  const Tensor one = patch_attention(x, x, x, 1.0);
  set_threads(3);
  EXPECT_TRUE(at::equal(patch_attention(x, x, x, 1.0), one));
}

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
