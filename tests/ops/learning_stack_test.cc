// The gradients that a learning stack gets: dL/dw of linears and experts against autograd, with
// products in fp32 and in bf16.
#include "ops/learning_stack.h"

#include <gtest/gtest.h>

#include <mutex>
#include <set>

#include "ops/bf16_matrix.h"
#include "ops/dense_stack.h"
#include "ops/experts.h"
#include "ops/linear.h"

namespace quern::ops {
namespace {

// Holds unchanged matrices and records the gradients that it gets.
class Recorder : public LearningStack {
 public:
  Recorder(const std::vector<Tensor>& matrices, DType dtype)
      : LearningStack(std::ssize(matrices), matrices[0].size(0), matrices[0].size(1), dtype) {
    for (int64_t i = 0; i < this->matrices(); ++i) {
      gradients.push_back(at::full({rows(), columns()}, NAN));
      set_values(i, 0, rows(), [&](float* out) {
        std::copy_n(matrices[i].const_data_ptr<float>(), rows() * columns(), out);
      });
    }
  }

  void skip(int64_t matrix) override {
    const std::lock_guard lock(mutex_);
    skipped.insert(matrix);
  }

  std::vector<Tensor> gradients;
  std::set<int64_t> skipped;

 protected:
  void step(int64_t matrix, int64_t begin, int64_t count, const float* gradient) override {
    Tensor part = gradients[matrix].narrow(0, begin, count);
    EXPECT_TRUE(part.isnan().all().item<bool>()) << "rows come once";
    std::copy_n(gradient, count * columns(), part.data_ptr<float>());
  }

 private:
  std::mutex mutex_;
};

class LearningTest : public testing::TestWithParam<DType> {
 protected:
  void SetUp() override {
    prepare_torch();
    at::manual_seed(3);
    if (GetParam() == at::kBFloat16 && !has_bf16_matrix())
      GTEST_SKIP() << "this processor, or QUERN_CPU_ISA, has no products in bf16";
  }

  // Rounded like a factor of a product.
  Tensor rounded(const Tensor& x) const { return x.to(GetParam()).to(at::kFloat); }
  std::shared_ptr<Recorder> recorder(const std::vector<Tensor>& matrices) const {
    return std::make_shared<Recorder>(matrices, GetParam());
  }
  // In units of the largest number.
  static double difference(const Tensor& a, const Tensor& b) {
    return ((a - b).abs().max() / b.abs().max()).item<double>();
  }
};

// More than one tile of tokens and of rows, rows that fill no tile, and a dense stack in between.
TEST_P(LearningTest, LinearsGetTheGradientOfTheirRows) {
  constexpr int64_t kTokens = 700, kColumns = 48;
  const std::vector<int64_t> rows = {200, 33, 130};
  std::vector<Tensor> weights;
  for (int64_t count : rows) weights.push_back(rounded(at::randn({count, kColumns})));
  const auto first = recorder({weights[0]}), last = recorder({weights[2]});
  const Stacks stacks = {first, std::make_shared<DenseStack>(std::vector<Tensor>{weights[1]}),
                         last};
  const Tensor x = rounded(at::randn({kTokens, kColumns})).requires_grad_();
  const Tensor dy = rounded(at::randn({kTokens, 363}));

  const Tensor w = at::cat(weights).requires_grad_();
  const Tensor expected = at::matmul(x, w.t());
  const auto wanted = torch::autograd::grad({expected}, {x, w}, {dy});
  const Tensor y = linear(x, stacks);
  const auto found = torch::autograd::grad({y}, {x}, {dy});

  EXPECT_LT(difference(y, expected), 1e-5);
  EXPECT_LT(difference(found[0], wanted[0]), 1e-5);
  EXPECT_LT(difference(first->gradients[0], wanted[1].narrow(0, 0, 200)), 1e-5);
  EXPECT_LT(difference(last->gradients[0], wanted[1].narrow(0, 233, 130)), 1e-5);
}

// A stack learns even if its input needs no gradient.
TEST_P(LearningTest, LearnsWithoutAGradientOfTheInput) {
  const Tensor weight = rounded(at::randn({40, 16})), x = rounded(at::randn({9, 16}));
  const auto stack = recorder({weight});
  const Tensor dy = rounded(at::randn({9, 40}));
  torch::autograd::backward({linear(x, {stack})}, {dy});
  EXPECT_LT(difference(stack->gradients[0], at::matmul(dy.t(), x)), 1e-5);
}

TEST_P(LearningTest, ExpertsGetTheGradientOfTheirMatrices) {
  constexpr int64_t kExperts = 6, kHidden = 32, kInner = 160, kTokens = 50, kChosen = 2;
  std::vector<Tensor> gate, up, down;
  for (int64_t e = 0; e < kExperts; ++e) {
    gate.push_back(rounded(at::randn({kInner, kHidden}) / 4));
    up.push_back(rounded(at::randn({kInner, kHidden}) / 4));
    down.push_back(rounded(at::randn({kHidden, kInner}) / 8));
  }
  const auto gates = recorder(gate), ups = recorder(up), downs = recorder(down);
  const Tensor x = rounded(at::randn({kTokens, kHidden})).requires_grad_();
  const Tensor p = at::rand({kTokens, kChosen}).requires_grad_();
  // Expert 4 is idle.
  const Tensor order = at::rand({kTokens, kExperts - 1}).argsort(-1, false).narrow(1, 0, kChosen);
  const Tensor chosen = at::where(order == 4, at::full_like(order, 5), order).contiguous();
  const Tensor dy = rounded(at::randn({kTokens, kHidden}));

  std::vector<Tensor> leaves = {x, p};
  for (const auto* list : {&gate, &up, &down})
    for (const Tensor& weight : *list) leaves.push_back(weight.detach().clone().requires_grad_());
  auto leaf = [&](int64_t kind, int64_t e) { return leaves[2 + kind * kExperts + e]; };
  Tensor expected = at::zeros({kTokens, kHidden});
  for (int64_t e = 0; e < kExperts; ++e) {
    const Tensor act = at::silu(at::matmul(x, leaf(0, e).t())) * at::matmul(x, leaf(1, e).t());
    const Tensor factor = (p * (chosen == e)).sum(-1, /*keepdim=*/true);
    expected = expected + at::matmul(act, leaf(2, e).t()) * factor;
  }
  const auto wanted = torch::autograd::grad({expected}, leaves, {dy});
  const Tensor y = experts(x, {chosen, p}, sort_by_expert(chosen, kExperts), {gates, ups, downs});
  const auto found = torch::autograd::grad({y}, {x, p}, {dy});

  // In bf16, intermediate results are rounded too.
  const double near = GetParam() == at::kFloat ? 1e-5 : 1e-2;
  EXPECT_LT(difference(y, expected), near);
  EXPECT_LT(difference(found[0], wanted[0]), near);
  EXPECT_LT(difference(found[1], wanted[1]), near);
  for (const auto& [kind, stack] : {std::pair{0, gates}, {1, ups}, {2, downs}}) {
    EXPECT_EQ(stack->skipped, std::set<int64_t>{4});
    for (int64_t e = 0; e < kExperts; ++e) {
      if (e == 4) continue;
      EXPECT_LT(difference(stack->gradients[e], wanted[2 + kind * kExperts + e]), near)
          << kind << " " << e;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, LearningTest, testing::Values(at::kFloat, at::kBFloat16),
                         [](const auto& info) {
                           return info.param == at::kFloat ? "fp32" : "bf16";
                         });

}  // namespace
}  // namespace quern::ops
