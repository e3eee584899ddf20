// Shares of ranks: together they are the whole, and each multiplies as its part does.
#include "nn/split.h"

#include <gtest/gtest.h>

#include "base/error.h"
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

}  // namespace
}  // namespace quern::nn
