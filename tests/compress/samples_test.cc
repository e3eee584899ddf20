// Calibration activations: reading returns the written values, rounded to bf16.
#include "compress/samples.h"

#include <gtest/gtest.h>

#include "compress/calibrate.h"

namespace quern::compress {
namespace {

Tensor rounded(const Tensor& x) { return x.to(at::kBFloat16).to(at::kFloat); }

TEST(Samples, ReadsWhatWasWritten) {
  prepare_torch();
  Samples samples({3, 1, 4});
  const Tensor rows = at::randn({8, 16});
  samples.write({0, 1, 2}, rows);
  EXPECT_TRUE(samples.read({0, 1, 2}).equal(rounded(rows)));
  EXPECT_TRUE(
      samples.read({2, 0}).equal(rounded(at::cat({rows.narrow(0, 4, 4), rows.narrow(0, 0, 3)}))));
  // With another width, like a draft layer's output.
  const Tensor narrow = at::randn({4, 8});
  samples.write({2}, narrow);
  EXPECT_TRUE(samples.read({2}).equal(rounded(narrow)));
  EXPECT_TRUE(samples.read({1}).equal(rounded(rows.narrow(0, 3, 1)))) << "others stay";
}

TEST(Samples, CarryWhatBlocksTell) {
  prepare_torch();
  Samples samples({2, 3});
  nn::Shared shared;
  const Tensor keys = at::randn({5, 4}), ids = at::arange(5, at::kLong);
  shared.set("keys", keys);
  shared.set("ids", ids);
  samples.tell({0, 1}, shared);
  const nn::Pass pass = samples.pass({1, 0});
  EXPECT_TRUE(
      pass.shared.at("keys").equal(rounded(at::cat({keys.narrow(0, 2, 3), keys.narrow(0, 0, 2)}))));
  EXPECT_TRUE(pass.shared.at("ids").equal(at::tensor({2, 3, 4, 0, 1}, at::kLong)));
}

// Doubles its input, and shares the first column.
class Doubling : public nn::Block {
 public:
  Tensor mixed(const Tensor& x, nn::Pass&) const override { return x; }
  Tensor fed_forward(const Tensor& x, nn::Pass& pass) const override {
    pass.shared.set("first", x.narrow(1, 0, 1));
    return 2 * x;
  }
};

// More samples than fit in one pass, with different lengths.
TEST(RunBlock, WritesTheOutputOverTheInput) {
  prepare_torch();
  std::vector<int64_t> lengths, all;
  for (int64_t i = 0; i < 9; ++i) {
    lengths.push_back(1000 + 100 * i);
    all.push_back(i);
  }
  Samples samples(lengths);
  for (const int64_t i : all) samples.write({i}, at::randn({lengths[i], 8}));
  const Tensor before = samples.read(all);
  run_block(Doubling(), samples);
  EXPECT_TRUE(samples.read(all).equal(2 * before));
  EXPECT_TRUE(samples.pass(all).shared.at("first").equal(before.narrow(1, 0, 1)));
}

}  // namespace
}  // namespace quern::compress
