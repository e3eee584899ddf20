// GPTQ and SparseGPT on single matrices: against llm-compressor's results, against the definition
// in fp64, and on inputs that make no sense.
#include "ops/compensated.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/threads.h"
#include "quant/dequantize.h"
#include "quant/grid.h"
#include "tests/quant/golden.h"

namespace quern::ops {
namespace {

using quant::Golden;

// 2 X^T X / number of sequences.
Tensor gram_of(const Tensor& inputs) {
  const Tensor x = inputs.to(at::kDouble).flatten(0, 2);
  return (2.0 * x.t().matmul(x) / static_cast<double>(inputs.size(0) * inputs.size(1)))
      .to(at::kFloat)
      .contiguous();
}

Tensor codes_of(const quant::QuantWeight& weight) {
  Tensor codes = at::empty({weight.rows(), weight.columns}, at::kByte);
  for (int64_t row = 0; row < weight.rows(); ++row)
    weight.scheme.element->unpack(
        weight.codes.const_data_ptr<uint8_t>() + row * weight.codes.size(1), weight.columns,
        codes.data_ptr<uint8_t>() + row * weight.columns);
  return codes.to(at::kLong);
}

quant::QuantWeight nearest(const Tensor& weight, int64_t group, bool symmetric) {
  return quant::round_to_nearest(
      weight, {.group_size = group, .symmetric = symmetric, .scale_dtype = weight.scalar_type()});
}

// The mean squared difference of outputs.
double output_error(const Tensor& inputs, const Tensor& weight, const Tensor& other) {
  const Tensor x = inputs.to(at::kDouble).flatten(0, 2);
  return x.matmul((weight.to(at::kDouble) - other.to(at::kDouble)).t())
      .square()
      .mean()
      .item<double>();
}

TEST(CompensatedCodes, EqualLlmCompressors) {
  prepare_torch();
  const Golden golden("gptq_linear");
  std::map<std::string, JsonValue> inputs;
  int compared = 0;
  for (const JsonValue& one : golden.cases()) {
    const auto id = one["id"].get<std::string>();
    if (!one["params"].contains("input")) {
      inputs[id] = one;
      continue;
    }
    SCOPED_TRACE(id);
    const JsonValue& params = one["params"];
    const JsonValue& in = inputs.at(params["input"].get<std::string>());
    const Tensor weight = golden.tensor(in, "weight"), x = golden.tensor(in, "inputs"),
                 gram = gram_of(x);
    const InverseFactor factor =
        inverse_factor(gram, params["dampening_frac"].get<double>(), !params["actorder"].is_null());
    EXPECT_EQ(factor.dampening, params["dampening_frac"].get<double>());
    const quant::QuantWeight start =
        nearest(weight, params["group_size"].get<int64_t>(), params["symmetric"].get<bool>());
    ASSERT_TRUE(at::equal(start.scales, golden.tensor(one, "scale")));
    const CompensatedCodes made =
        compensated_codes(weight, factor, start, {.block = params["block_size"].get<int64_t>()});
    // fp32 noise may meet a tie of rounding, and moves what comes after it in the row.
    const Tensor expected = golden.tensor(one, "codes").to(at::kLong) + 8;
    const double different =
        codes_of(made.weight).ne(expected).to(at::kDouble).mean().item<double>();
    EXPECT_LE(different, 0.005);
    EXPECT_NEAR(made.loss / one["results"]["loss"].get<double>(), 1, 1e-3);
    const double error = output_error(x, weight, quant::dequantize(made.weight, at::kFloat));
    EXPECT_NEAR(error / one["results"]["output_mse_gptq"].get<double>(), 1, 0.01);
    EXPECT_LT(error, one["results"]["output_mse_rtn"].get<double>());
    ++compared;
  }
  EXPECT_GE(compared, 15);
}

TEST(Pruned, EqualsLlmCompressors) {
  prepare_torch();
  const Golden golden("sparsegpt_linear");
  std::map<std::string, JsonValue> inputs;
  int compared = 0;
  for (const JsonValue& one : golden.cases()) {
    const auto id = one["id"].get<std::string>();
    if (!one["params"].contains("input")) {
      inputs[id] = one;
      continue;
    }
    const JsonValue& params = one["params"];
    if (params["preserve_sparsity_mask"].get<bool>()) continue;  // refused by the recipe's reader
    SCOPED_TRACE(id);
    const JsonValue& in = inputs.at(params["input"].get<std::string>());
    const Tensor weight = golden.tensor(in, "weight"), gram = gram_of(golden.tensor(in, "inputs"));
    const auto pattern = params["mask_structure"].get<std::string>();
    const Pruning pruning{params["sparsity"].get<double>(), pattern == "2:4" ? 2 : 0,
                          pattern == "2:4" ? 4 : 0};
    const PrunedWeight made =
        pruned(weight, inverse_factor(gram, params["dampening_frac"].get<double>(), false), pruning,
               {.block = params["block_size"].get<int64_t>()});
    const Tensor expected = golden.tensor(one, "sparsified");
    EXPECT_TRUE(at::equal(made.weight.eq(0), expected.eq(0)));
    EXPECT_EQ(made.weight.eq(0).sum().item<int64_t>(), one["results"]["zeros"].get<int64_t>());
    const double tolerance = weight.scalar_type() == at::kFloat ? 1e-4 : 2e-2;  // a step of bf16
    EXPECT_LT((made.weight.to(at::kFloat) - expected.to(at::kFloat)).abs().max().item<double>(),
              tolerance);
    EXPECT_NEAR(made.loss / one["results"]["loss"].get<double>(), 1, 1e-2);
    ++compared;
  }
  EXPECT_GE(compared, 12);
}

// At a size with several blocks of the factor, several tiles of rows and ends that fill neither.
TEST(InverseFactor, IsTheDefinition) {
  prepare_torch();
  at::manual_seed(3);
  for (const int64_t n : {1, 63, 64, 65, 200, 333}) {
    const Tensor x = at::randn({3 * n, n}), gram = x.t().matmul(x).contiguous();
    const InverseFactor factor = inverse_factor(gram, 0.01, /*by_activation=*/true);
    ASSERT_EQ(factor.dampening, 0.01);
    const Tensor order = at::tensor(factor.order, at::kLong);
    Tensor h = gram.to(at::kDouble).index_select(0, order).index_select(1, order);
    EXPECT_TRUE(h.diagonal().diff().le(0).all().item<bool>());
    h.diagonal().add_(0.01 * h.diagonal().mean());
    const Tensor expected = std::get<0>(at::linalg_cholesky_ex(h.inverse(), /*upper=*/true));
    const Tensor difference = factor.upper.to(at::kDouble) - expected;
    EXPECT_LT(difference.abs().max().item<double>(), 1e-4 * expected.abs().max().item<double>())
        << n;
  }
}

TEST(InverseFactor, SurvivesWhatHasNoInverse) {
  prepare_torch();
  at::manual_seed(4);
  // One token; equal columns; nothing at all: damping makes a factor of each.
  const Tensor one = at::randn({1, 96}), twins = at::randn({300, 48}).repeat({1, 2});
  for (const Tensor& x : {one, twins, at::zeros({4, 96})}) {
    const InverseFactor factor = inverse_factor(x.t().matmul(x).contiguous(), 0.01, true);
    EXPECT_GT(factor.dampening, 0);
    EXPECT_TRUE(factor.upper.isfinite().all().item<bool>());
  }
  EXPECT_EQ(inverse_factor(at::zeros({96, 96}), 0.01, true).dead, std::vector<uint8_t>(96, 1));
  // Not a Gram matrix: the identity, with which a weight is rounded to nearest.
  for (const float wrong : {-1.0f, NAN, INFINITY}) {
    Tensor gram = at::eye(96);
    gram[5][5] = wrong;
    const InverseFactor factor = inverse_factor(gram, 0.01, false);
    EXPECT_EQ(factor.dampening, 0);
    EXPECT_TRUE(at::equal(factor.upper, at::eye(96)));
    const Tensor weight = at::randn({5, 96});
    const quant::QuantWeight start = nearest(weight, 32, true);
    EXPECT_TRUE(at::equal(compensated_codes(weight, factor, start, {}).weight.codes, start.codes));
  }
}

TEST(CompensatedCodes, KeepZerosWhenAsked) {
  prepare_torch();
  at::manual_seed(5);
  const Tensor x = at::randn({2, 1, 100, 192}), gram = gram_of(x);
  const Tensor weight = at::randn({70, 192}) * at::rand({70, 192}).gt(0.3);
  const InverseFactor factor = inverse_factor(gram, 0.01, true);
  const quant::QuantWeight start = nearest(weight, 64, true);
  const auto zeros = [&](bool keep) {
    const CompensatedCodes made = compensated_codes(weight, factor, start, {128, keep});
    return quant::dequantize(made.weight, at::kFloat)
        .eq(0)
        .logical_and(weight.eq(0))
        .sum()
        .item<int64_t>();
  };
  EXPECT_EQ(zeros(true), weight.eq(0).sum().item<int64_t>());
  EXPECT_LT(zeros(false), weight.eq(0).sum().item<int64_t>());
}

TEST(CompensatedCodes, ThreadsDoNotChangeTheBits) {
  prepare_torch();
  at::manual_seed(6);
  const Tensor x = at::randn({1, 1, 700, 320}), gram = gram_of(x), weight = at::randn({300, 320});
  std::vector<Tensor> codes, sparse;
  for (const int count : {1, 3}) {
    set_threads(count);
    const InverseFactor factor = inverse_factor(gram, 0.01, true);
    codes.push_back(compensated_codes(weight, factor, nearest(weight, 64, true), {}).weight.codes);
    sparse.push_back(pruned(weight, factor, {.share = 0.3}, {}).weight);
  }
  EXPECT_TRUE(at::equal(codes[0], codes[1]));
  EXPECT_TRUE(at::equal(sparse[0], sparse[1]));
}

}  // namespace
}  // namespace quern::ops
