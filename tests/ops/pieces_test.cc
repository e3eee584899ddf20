#include "ops/pieces.h"

#include <gtest/gtest.h>

namespace quern::ops {
namespace {

// y = 2 x for the columns [begin, end) of each piece, as views of x [rows, columns].
Tensor twice_of(const Tensor& x, std::vector<std::pair<int64_t, int64_t>> columns) {
  std::vector<Piece> pieces;
  int64_t width = 0;
  for (const auto& [begin, end] : columns) {
    const int64_t first = width, count = end - begin;
    pieces.push_back({[begin, end](const Tensor& t, size_t) { return t.slice(1, begin, end); },
                      [first, count](const Tensor& t) { return t.narrow(1, first, count); }});
    width += count;
  }
  return by_pieces([](const std::vector<Tensor>& in) { return in[0] * 2; }, {x}, {x.size(0), width},
                   std::move(pieces));
}

TEST(Pieces, GradientsOfWhatNoPieceReadsAreZero) {
  prepare_torch();
  for (int round = 0; round < 2; ++round) {
    // Fills the memory that the gradient may reuse with numbers.
    {
      at::full({3, 1 << 20}, 7.0f);
    }
    const Tensor x = at::randn({3, 1 << 20}).requires_grad_(true);
    const int64_t half = 1 << 19, end = round == 0 ? (1 << 20) - 5 : 1 << 20;
    const Tensor y = twice_of(x, {{half, end}, {0, half}});
    EXPECT_TRUE(
        at::equal(y.detach(), at::cat({x.slice(1, half, end), x.slice(1, 0, half)}, 1) * 2));
    const Tensor dx = torch::autograd::grad({y.sum()}, {x})[0];
    Tensor expected = at::full({3, 1 << 20}, 2.0f);
    expected.slice(1, end).zero_();
    EXPECT_TRUE(at::equal(dx, expected)) << round;
  }
}

TEST(Pieces, GradientsOfInputsThatAFunctionPassesOverAreZero) {
  prepare_torch();
  const Tensor a = at::randn({300, 400}).requires_grad_(true),
               b = at::randn({300, 400}).requires_grad_(true);
  {
    at::full({300, 400}, 7.0f);
  }
  const Tensor y = by_rows([](const std::vector<Tensor>& in) { return in[0] * 3; }, {a, b}, {400});
  const auto d = torch::autograd::grad({y.sum()}, {a, b}, {}, std::nullopt, false, true);
  EXPECT_TRUE(at::equal(d[0], at::full({300, 400}, 3.0f)));
  EXPECT_TRUE(at::equal(d[1], at::zeros({300, 400})));
}

}  // namespace
}  // namespace quern::ops
