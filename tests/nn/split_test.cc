// The shares of all ranks together are the whole matrix, and each share multiplies like its part.
#include "nn/split.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "nn/weights.h"
#include "ops/routing.h"
#include "quant/dequantize.h"
#include "quant/grid.h"

namespace quern::nn {
namespace {

std::vector<std::pair<int64_t, int64_t>> pairs(const std::vector<Range>& ranges) {
  std::vector<std::pair<int64_t, int64_t>> all;
  for (const Range& range : ranges) all.emplace_back(range.begin, range.size);
  return all;
}

TEST(SplitTest, HeadsAreNotCutAndFewOnesAreShared) {
  using Pairs = std::vector<std::pair<int64_t, int64_t>>;
  const Axis axis = {{8, 16}, {2, 16}};
  EXPECT_EQ(axis.size(), 160);
  EXPECT_EQ(pairs(axis.share({1, 2}, "q")), (Pairs{{64, 64}, {144, 16}}));
  EXPECT_EQ(pairs(axis.share({3, 4}, "q")), (Pairs{{96, 32}, {144, 16}}));
  EXPECT_EQ(pairs(axis.share({0, 4}, "q")), (Pairs{{0, 32}, {128, 16}}));
  EXPECT_EQ(pairs(axis.share({0, 1}, "q")), (Pairs{{0, 128}, {128, 32}}));
  EXPECT_THROW(axis.share({0, 3}, "q"), Error);
}

TEST(SplitTest, PackedMatricesAreCutBetweenGroups) {
  prepare_torch();
  at::manual_seed(1);
  const Tensor matrix = at::randn({64, 128});
  for (const bool symmetric : {true, false}) {
    const quant::QuantWeight whole = quant::round_to_nearest(
        matrix, {.group_size = 32, .symmetric = symmetric, .scale_dtype = at::kHalf});
    const Tensor numbers = quant::dequantize(whole, at::kFloat);
    const auto rows = pick(whole, 0, {{16, 8}, {40, 16}}, "w");
    EXPECT_TRUE(
        at::equal(quant::dequantize(rows, at::kFloat), pick(numbers, 0, {{16, 8}, {40, 16}})));
    const auto columns = pick(whole, 1, {{0, 32}, {96, 32}}, "w");
    EXPECT_EQ(columns.columns, 64);
    EXPECT_TRUE(
        at::equal(quant::dequantize(columns, at::kFloat), pick(numbers, 1, {{0, 32}, {96, 32}})));
    EXPECT_THROW(pick(whole, 1, {{16, 32}}, "w"), Error);
  }
}

// Each rank loads its share of a block of the fixture, and the results of the ranks add up.
class RanksTest : public testing::Test {
 protected:
  RanksTest()
      : source_(std::make_shared<const Source>(std::filesystem::path(QUERN_SOURCE_DIR) / "tests" /
                                               "data" / "qwen36")) {
    prepare_torch();
    at::manual_seed(2);
  }

  Weights block(const Rank& rank, int layer) const {
    return Weights(source_).of(rank) / "model" / "language_model" / "layers" / layer;
  }

  static constexpr int64_t kHidden = 256, kInner = 128, kExperts = 8;
  std::shared_ptr<const Source> source_;
  at::NoGradGuard no_grad_;
};

TEST_F(RanksTest, TheirProductsAddUp) {
  const Tensor x = at::randn({5, kHidden});
  const ops::Routing routing = ops::softmax_top_k(at::randn({5, kExperts}), 2);
  auto computed = [&](const Rank& rank) {
    const Weights mlp = block(rank, 0) / "mlp";
    return std::pair{mlp.mlp("shared_expert", kHidden, kInner)(x),
                     mlp.experts("experts", kExperts, kHidden, kInner)(x, routing, nullptr)};
  };
  const auto [dense, sparse] = computed({});
  const auto [first_dense, first_sparse] = computed({0, 2});
  const auto [last_dense, last_sparse] = computed({1, 2});
  EXPECT_TRUE(at::allclose(first_dense + last_dense, dense, 1e-4, 1e-5));
  EXPECT_TRUE(at::allclose(first_sparse + last_sparse, sparse, 1e-4, 1e-5));
  EXPECT_FALSE(at::allclose(first_dense, dense, 1e-2, 1e-3));
}

TEST_F(RanksTest, HaveTheirHeads) {
  const std::vector<Part> parts = {{"q_proj", Axis::heads(4, 128)},
                                   {"k_proj", Axis::heads(2, 64)},
                                   {"v_proj", Axis::heads(2, 64)}};
  const Tensor x = at::randn({3, kHidden});
  auto qkv = [&](const Rank& rank) {
    return (block(rank, 3) / "self_attn").merged("qkv_proj", parts, kHidden).parts(x);
  };
  const std::vector<Tensor> whole = qkv({}), second = qkv({1, 4});
  EXPECT_TRUE(at::equal(second[0], whole[0].narrow(1, 128, 128)));
  EXPECT_TRUE(at::equal(second[1], whole[1].narrow(1, 0, 64)));  // two ranks have each head
  EXPECT_TRUE(at::equal(second[2], whole[2].narrow(1, 0, 64)));
}

}  // namespace
}  // namespace quern::nn
