// Every architecture at lengths beyond its windows and chunks: a sequence in pieces of any size,
// through the caches, gives the results of the whole sequence.
#include <gtest/gtest.h>

#include "tests/models/parity.h"

namespace quern::models {
namespace {

struct Case {
  const char* fixture;
  bool three_axes;  // positions in time, height and width
};

std::string name_of(const testing::TestParamInfo<Case>& info) {
  return std::string(info.param.fixture) + (info.param.three_axes ? "_three_axes" : "");
}

class LongContextTest : public testing::TestWithParam<Case> {
 protected:
  LongContextTest() : whole_(test_data(GetParam().fixture)), random_(11) {
    prepare_torch();
    at::manual_seed(5);
  }

  // More than twelve windows of 16, and three chunks of the delta rule.
  static constexpr int64_t kTokens = 210;

  Tensor tokens() const { return at::randint(32, whole_.model->vocabulary(), {kTokens}); }

  // As after a picture: rows and columns differ from time, and there are gaps.
  Tensor positions() const {
    Tensor plain = at::arange(kTokens, at::kLong);
    if (!GetParam().three_axes) return plain;
    return at::stack({plain.div(3, "floor"), plain + plain.remainder(5), plain.remainder(70)});
  }

  Tensor logits(const Tensor& tokens, nn::Pass pass, const Tensor& positions) const {
    pass.positions = positions;
    return whole_.logits(tokens, pass);
  }

  void expect_pieces(const Tensor& tokens, const Tensor& positions, const Tensor& expected,
                     int64_t longest) {
    nn::Caches caches;
    for (int64_t begin = 0; begin < kTokens;) {
      const int64_t count = std::min<int64_t>(kTokens - begin, 1 + random_() % longest);
      const Tensor got =
          logits(tokens.narrow(0, begin, count), nn::Pass::next(begin, count, caches),
                 positions.narrow(-1, begin, count));
      EXPECT_LT(distance(got, expected.narrow(0, begin, count)), kLogitTolerance)
          << begin << " to " << begin + count;
      begin += count;
    }
  }

  Whole whole_;
  std::mt19937 random_;
};

TEST_P(LongContextTest, PiecesOfAnySize) {
  const Tensor ids = tokens(), where = positions();
  const Tensor expected = logits(ids, nn::Pass::whole({kTokens}), where);
  for (int64_t longest : {1, 7, 40, 150}) expect_pieces(ids, where, expected, longest);
}

// Tokens far in the past affect later ones, unless every layer has dropped them: so the comparison
// above can fail.
TEST_P(LongContextTest, TheFirstTokenIsRemembered) {
  Tensor ids = tokens();
  const Tensor before = logits(ids, nn::Pass::whole({kTokens}), positions());
  ids[0] = ids[0].item<int64_t>() == 40 ? 41 : 40;
  const Tensor after = logits(ids, nn::Pass::whole({kTokens}), positions());
  EXPECT_GT(distance(before[-1], after[-1]), kLogitTolerance);
}

INSTANTIATE_TEST_SUITE_P(Families, LongContextTest,
                         testing::Values(Case{"qwen36", false}, Case{"qwen36", true},
                                         Case{"gemma4", false}, Case{"gemma4_resaved", false},
                                         Case{"gemma4_moe", false}, Case{"glm45", false},
                                         Case{"sarvam", false}, Case{"qwen3", false},
                                         Case{"llama", false}),
                         name_of);

}  // namespace
}  // namespace quern::models
