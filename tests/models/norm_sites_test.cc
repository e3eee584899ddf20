// The norms that a block lists, and their readers: a scale that is divided out of a norm and
// multiplied into all of its readers does not change the block's results. A missing or additional
// reader would change them.
#include <gtest/gtest.h>

#include <set>

#include "tests/models/golden.h"

namespace quern::models {
namespace {

struct Case {
  const char* fixture;
  size_t norms;  // of a block, with at least one reader
};

class NormSitesTest : public testing::TestWithParam<Case> {
 protected:
  NormSitesTest() : whole_(test_data(GetParam().fixture)) { prepare_torch(); }

  // The block's output for some tokens, as the stem gives them.
  Tensor output(const nn::Block& block) const {
    at::NoGradGuard no_grad;
    nn::Pass pass = nn::Pass::whole({12});
    const Tensor x = (*whole_.stem)(at::arange(40, 52, at::kLong), pass);
    for (const auto& earlier : whole_.blocks) {  // what later blocks may read of earlier ones
      if (shares_) (*earlier)(x, pass);
    }
    return block(x, pass);
  }

  Whole whole_;
  bool shares_ = std::string(GetParam().fixture).starts_with("gemma4");
};

void multiply_columns(const nn::Weight& weight, const Tensor& scale) {
  std::vector<Tensor> scaled;
  for (const Tensor& matrix : weight.dense()->all())
    scaled.push_back((matrix.to(at::kFloat) * scale).contiguous());
  weight.become(std::make_shared<ops::DenseStack>(scaled));
}

TEST_P(NormSitesTest, ScaleMovesIntoTheReaders) {
  at::manual_seed(4);
  for (int i = 0; i < whole_.model->blocks(); ++i) {
    std::vector<nn::LinearSite> sites;
    std::vector<nn::NormSite> norms;
    const auto block = whole_.model->block(whole_.weights.listing(&sites, nullptr, &norms), i);
    EXPECT_EQ(norms.size(), GetParam().norms) << i;
    const Tensor before = output(*block);
    for (const nn::NormSite& site : norms) {
      const Tensor scale = at::rand(site.norm.factor().sizes()) + 0.5;
      site.norm.become(site.norm.factor() / scale);
      EXPECT_GT(distance(output(*block), before), 1e-2) << site.tensor;
      std::set<std::string> found;
      std::vector<nn::Weight> done;
      for (const nn::LinearSite& linear : sites) {
        if (std::ranges::find(site.readers, linear.input) == site.readers.end()) continue;
        found.insert(linear.input);
        if (std::ranges::any_of(done, [&](const auto& w) { return w.is(linear.weight); })) continue;
        multiply_columns(linear.weight, scale);
        done.push_back(linear.weight);
      }
      EXPECT_EQ(found.size(), site.readers.size()) << site.tensor;
      EXPECT_LT(distance(output(*block), before), 2e-4) << site.tensor;
    }
  }
}

// A norm is written as it was read.
TEST_P(NormSitesTest, IsStoredAsTheCheckpointHoldsIt) {
  std::vector<nn::LinearSite> sites;
  std::vector<nn::NormSite> norms;
  whole_.model->block(whole_.weights.listing(&sites, nullptr, &norms), 0);
  for (const nn::NormSite& site : norms) {
    const Tensor tensor = whole_.source->files.tensor(site.tensor);
    EXPECT_TRUE(at::equal(site.stored().to(tensor.scalar_type()), tensor)) << site.tensor;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, NormSitesTest,
                         testing::Values(Case{"qwen36", 2}, Case{"glm45", 2}, Case{"gemma4", 2},
                                         Case{"gemma4_moe", 3}, Case{"sarvam", 2}, Case{"qwen3", 2},
                                         Case{"llama", 2}),
                         [](const auto& info) { return std::string(info.param.fixture); });

}  // namespace
}  // namespace quern::models
