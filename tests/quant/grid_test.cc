// Both grids against the peers' own numbers.
#include "quant/grid.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/threads.h"
#include "quant/dequantize.h"
#include "quant/format.h"
#include "quant/rows.h"
#include "tests/formats.h"
#include "tests/quant/golden.h"

namespace quern::quant {
namespace {

// Codes in the peers' range, -8..7, [rows, columns].
Tensor signed_codes(const QuantWeight& weight) {
  Tensor low = weight.codes.bitwise_and(15), high = weight.codes.bitwise_right_shift(4);
  Tensor codes = at::stack({low, high}, -1).flatten(-2).narrow(-1, 0, weight.columns);
  return codes.to(at::kChar).sub_(8);
}

Tensor signed_zeros(const QuantWeight& weight) {
  if (!weight.zeros.defined()) return at::zeros(weight.scales.sizes(), at::kChar);
  return weight.zeros.to(at::kChar).sub_(8);
}

Scheme scheme_of(const JsonValue& params, DType scale_dtype) {
  return {.group_size = params.value("group_size", int64_t{-1}),
          .symmetric = params.value("symmetric", true),
          .scale_dtype = scale_dtype};
}

TEST(CompressedTensorsGrid, EqualsTheObserversOfLlmCompressor) {
  Golden golden("observers");
  int checked = 0;
  for (const auto& one : golden.cases()) {
    const auto& params = one["params"];
    if (!params.contains("observer") || params.value("num_bits", 4) != 4) continue;
    if (params.value("strategy", "channel") == "tensor") continue;
    if (observer_named(params["observer"].get<std::string>()) != Observer::minmax) continue;
    Tensor weight = golden.input(one);
    QuantWeight got = round_to_nearest(weight, scheme_of(params, weight.scalar_type()));
    SCOPED_TRACE(one["id"].get<std::string>());
    EXPECT_TRUE(same_bits(got.scales, golden.tensor(one, "scale")));
    EXPECT_TRUE(same_bits(signed_zeros(got), golden.tensor(one, "zero_point")));
    EXPECT_TRUE(same_bits(signed_codes(got), golden.tensor(one, "codes")));
    if (golden.has(one, "dequantized")) {
      Tensor expected = golden.tensor(one, "dequantized");
      EXPECT_TRUE(at::equal(dequantize(got, expected.scalar_type()), expected));
    }
    ++checked;
  }
  EXPECT_GE(checked, 90);
}

// Sum of |error|^norm of every group, in fp64.
Tensor group_errors(const Tensor& weight, const QuantWeight& got, double norm) {
  Tensor error = weight.to(at::kDouble) - dequantize(got, weight.scalar_type()).to(at::kDouble);
  return error.abs().pow(norm).view({weight.size(0), got.scales.size(1), -1}).sum(-1);
}

// The peer sums powers in the dtype of the weight, so where two steps are close it may choose the
// worse one: our error may be larger than the peer's by that noise only.
TEST(CompressedTensorsGrid, MseSearchIsAtLeastAsGoodAsThePeers) {
  Golden golden("observers");
  int checked = 0;
  for (const auto& one : golden.cases()) {
    const auto& params = one["params"];
    if (!params.contains("observer") ||
        observer_named(params["observer"].get<std::string>()) != Observer::mse) {
      continue;
    }
    SCOPED_TRACE(one["id"].get<std::string>());
    Tensor weight = golden.input(one);
    RtnOptions options{.observer = Observer::mse};
    if (params.contains("observer_kwargs")) {
      const auto& kwargs = params["observer_kwargs"];
      options.shrink = {.maxshrink = kwargs.value("maxshrink", 0.2),
                        .grid = kwargs.value("grid", 100.0),
                        .norm = kwargs.value("norm", 2.4),
                        .patience = kwargs.value("patience", 5)};
    }
    Scheme scheme = scheme_of(params, weight.scalar_type());
    QuantWeight got = round_to_nearest(weight, scheme, options);
    Tensor expected_scale = golden.tensor(one, "scale");
    double tolerance = weight.scalar_type() == at::kFloat ? 1e-6 : 2e-2;
    if (golden.has(one, "codes")) {
      Tensor zeros = golden.tensor(one, "zero_point").to(at::kChar);
      QuantWeight peer = got;
      peer.scales = expected_scale;
      if (!scheme.symmetric) peer.zeros = zeros.add(8).to(at::kByte);
      Tensor codes = golden.tensor(one, "codes").add(8).to(at::kByte).view({weight.size(0), -1, 2});
      peer.codes = codes.select(-1, 0).bitwise_or(codes.select(-1, 1).bitwise_left_shift(4));
      double worst =
          (group_errors(weight, got, 2.4) - group_errors(weight, peer, 2.4) * (1 + tolerance))
              .max()
              .item<double>();
      EXPECT_LE(worst, 1e-40);
    }
    double equal = got.scales.eq(expected_scale).to(at::kDouble).mean().item<double>();
    EXPECT_GE(equal, weight.scalar_type() == at::kFloat ? 0.98 : 0.5);
    ++checked;
  }
  EXPECT_GE(checked, 60);
}

TEST(CompressedTensorsGrid, RoundsTiesToEvenAndClampsBeforeRounding) {
  Golden golden("fake_quant_ties");
  int checked = 0;
  for (const auto& one : golden.cases()) {
    if (!golden.has(one, "codes")) continue;
    SCOPED_TRACE(one["id"].get<std::string>());
    Tensor x = golden.tensor(one, "x"), scale = golden.tensor(one, "scale");
    Tensor expected = golden.tensor(one, "codes");
    DType dtype = x.scalar_type();
    int64_t group = x.size(1) / scale.size(1);
    std::vector<float> numbers(x.size(1));
    std::vector<uint8_t> codes(group);
    for (int64_t row = 0; row < x.size(0); ++row) {
      widen(x[row].const_data_ptr(), dtype, x.size(1), numbers.data());
      for (int64_t g = 0; g < scale.size(1); ++g) {
        int zero = golden.has(one, "zero_point")
                       ? golden.tensor(one, "zero_point")[row][g].item<int>() + 8
                       : 8;
        encode_integers(
            kInt4, numbers.data() + g * group, group,
            {.scale = scale[row][g].item<float>(), .zero = zero, .quotient_dtype = dtype},
            codes.data());
        for (int64_t i = 0; i < group; ++i) {
          ASSERT_EQ(codes[i] - 8, expected[row][g * group + i].item<int>()) << row << " " << i;
        }
      }
    }
    ++checked;
  }
  EXPECT_EQ(checked, 20);
}

TEST(CompressedTensorsGrid, ParametersOfGivenExtremes) {
  Golden golden("fake_quant_ties");
  int checked = 0;
  for (const auto& one : golden.cases()) {
    if (!golden.has(one, "min") || one["params"]["num_bits"] != 4) continue;
    SCOPED_TRACE(one["id"].get<std::string>());
    Tensor low = golden.tensor(one, "min"), high = golden.tensor(one, "max");
    Scheme scheme{.symmetric = one["params"]["symmetric"], .scale_dtype = low.scalar_type()};
    for (int64_t i = 0; i < low.size(1); ++i) {
      GridPoint step = minmax_point(Grid::compressed_tensors, scheme, low.scalar_type(),
                                    std::min(0.0f, low[0][i].item<float>()),
                                    std::max(0.0f, high[0][i].item<float>()));
      EXPECT_EQ(step.scale, golden.tensor(one, "scale")[0][i].item<float>()) << i;
      EXPECT_EQ(step.zero - 8, golden.tensor(one, "zero_point")[0][i].item<int>()) << i;
    }
    ++checked;
  }
  EXPECT_EQ(checked, 4);
}

TEST(AutoRoundGrid, EqualsTheFunctionsOfAutoRound) {
  Golden golden("autoround_qdq");
  int checked = 0;
  for (const auto& one : golden.cases()) {
    const auto& params = one["params"];
    std::string function = params.value("function", "");
    bool tuned = golden.has(one, "v");
    if (function.empty() || tuned || function == "opt_rtn_int_sym") continue;
    SCOPED_TRACE(one["id"].get<std::string>());
    Tensor weight = golden.input(one);
    Scheme scheme{.group_size = params["group_size"],
                  .symmetric = function != "int_asym",
                  .scale_dtype = golden.tensor(one, "scale").scalar_type()};
    QuantWeight got = round_to_nearest(weight, scheme, {.grid = Grid::auto_round});
    EXPECT_TRUE(same_bits(got.scales, golden.tensor(one, "scale")));
    EXPECT_TRUE(at::equal(dequantize(got, weight.scalar_type()), golden.tensor(one, "qdq")));
    if (golden.has(one, "zp")) {
      EXPECT_TRUE(at::equal(got.zeros.to(at::kInt), golden.tensor(one, "zp")));
    }
    ++checked;
  }
  EXPECT_EQ(checked, 12);
}

// Equal for fp32 weights. The peer searches in the weight's dtype: for 16-bit weights its choice is
// noisier than ours, so ours must be at least as good.
TEST(AutoRoundGrid, SearchedScalesEqualOptimisedRtn) {
  Golden golden("autoround_qdq");
  int checked = 0;
  for (const auto& one : golden.cases()) {
    const auto& params = one["params"];
    if (params.value("function", "") != "opt_rtn_int_sym") continue;
    SCOPED_TRACE(one["id"].get<std::string>());
    Tensor weight = golden.input(one), scale = golden.tensor(one, "scale");
    Tensor expected = golden.tensor(one, "qdq");
    RtnOptions options{.grid = Grid::auto_round, .search_scale = true};
    Tensor importance = at::ones({weight.size(1)});
    if (golden.has(one, "imatrix")) importance = golden.tensor(one, "imatrix");
    options.importance = importance;
    Scheme scheme{.group_size = params["group_size"], .scale_dtype = scale.scalar_type()};
    QuantWeight got = round_to_nearest(weight, scheme, options);
    if (weight.scalar_type() == at::kFloat) {
      EXPECT_TRUE(at::allclose(got.scales, scale, 1e-6, 0));
      EXPECT_TRUE(at::allclose(dequantize(got, at::kFloat), expected, 1e-6, 0));
    }
    auto error_of = [&](const Tensor& x) {
      Tensor difference = x.to(at::kDouble) - weight.to(at::kDouble);
      return (difference.square() * importance).sum().item<double>();
    };
    EXPECT_LE(error_of(dequantize(got, weight.scalar_type())), error_of(expected) * 1.001);
    ++checked;
  }
  EXPECT_EQ(checked, 8);
}

TEST(RoundToNearest, StackEqualsItsMatricesAndThreadsDoNotMatter) {
  at::manual_seed(7);
  Tensor fused = at::randn({3, 48, 256}).to(at::kBFloat16);
  Tensor half = fused.narrow(1, 24, 24);  // rows of a fused stack: strided, not contiguous
  QuantWeight whole = round_to_nearest(half, {.group_size = 64});
  for (int64_t e = 0; e < 3; ++e) {
    QuantWeight one = round_to_nearest(half[e].contiguous(), {.group_size = 64});
    EXPECT_TRUE(same_bits(whole.expert(e).codes, one.codes));
    EXPECT_TRUE(same_bits(whole.expert(e).scales, one.scales));
  }
  Tensor large = at::randn({2048, 1024});
  double before = 0;
  for (int count : {1, 4}) {
    set_threads(count);
    QuantWeight weight = round_to_nearest(large, {.scale_dtype = at::kFloat});
    double error = relative_error(large, weight);
    if (count == 1) before = error;
    EXPECT_EQ(error, before);
  }
  Tensor exact = dequantize(round_to_nearest(large, {.scale_dtype = at::kFloat}), at::kFloat);
  EXPECT_NEAR(before, ((exact - large).norm() / large.norm()).item<double>(), 1e-6);
}

TEST(RoundToNearest, RefusesWhatCannotBeRounded) {
  Tensor weight = at::ones({4, 64});
  weight[2][5] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THROW(round_to_nearest(weight, {.group_size = 32}, {.name = "w"}), Error);
  EXPECT_THROW(round_to_nearest(at::ones({4, 48}), {.group_size = 32}), Error);
  EXPECT_THROW(
      round_to_nearest(at::full({4, 32}, 1e6f), {.group_size = 32, .scale_dtype = at::kHalf},
                       {.grid = Grid::auto_round}),
      Error);
}

// fp16 has 65536 numbers: all of them, and their midpoints, against LibTorch's conversion.
TEST(RoundTo, HalfPrecisionEqualsTheConversion) {
  for (uint32_t i = 0; i < 0x7c00; ++i) {
    float a = at::Half(static_cast<uint16_t>(i), at::Half::from_bits());
    float b = at::Half(static_cast<uint16_t>(i + 1), at::Half::from_bits());
    float middle = i + 1 == 0x7c00 ? 65519.0f : a + (b - a) / 2;
    for (float x :
         {a, middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 1e9f), -middle}) {
      ASSERT_EQ(round_to(at::kHalf, x), static_cast<float>(at::Half(x))) << x;
      ASSERT_EQ(round_to(at::kBFloat16, x), static_cast<float>(at::BFloat16(x))) << x;
    }
  }
}

// The whole trunk of the small Qwen3.6: the hash of every tensor that a peer's run wrote.
class WholeModel : public testing::TestWithParam<std::tuple<const char*, Grid, Format>> {};

Tensor source_weight(const std::map<std::string, Tensor>& source, const std::string& module) {
  auto found = source.find(module + ".weight");
  if (found != source.end()) return found->second;
  // "<block>.mlp.experts.<e>.<gate|up|down>_proj" out of a fused stack.
  size_t dot = module.rfind('.'), number = module.rfind('.', dot - 1);
  std::string stack = module.substr(0, number), projection = module.substr(dot + 1);
  int64_t expert = std::stoll(module.substr(number + 1, dot - number - 1));
  if (projection == "down_proj") return source.at(stack + ".down_proj")[expert];
  Tensor both = source.at(stack + ".gate_up_proj")[expert];
  int64_t rows = both.size(0) / 2;
  return both.narrow(0, projection == "gate_proj" ? 0 : rows, rows);
}

TEST_P(WholeModel, EveryTensorHasThePeersHash) {
  auto [run, grid, format] = GetParam();
  auto source = read_tensors(kTestData / "qwen36/model-00001-of-00002.safetensors");
  source.merge(read_tensors(kTestData / "qwen36/model-00002-of-00002.safetensors"));
  JsonValue hashes = read_json(kTestData / "peers/rtn_sha256.json")[run]["tensors"];
  std::string mark = format == kCompressedTensors ? ".weight_packed" : ".qweight";
  DType scale = grid == Grid::auto_round ? at::kHalf : at::kBFloat16;
  int modules = 0;
  for (const auto& [name, hash] : hashes.items()) {
    if (!name.ends_with(mark)) continue;
    std::string module = name.substr(0, name.size() - mark.size());
    QuantWeight weight =
        round_to_nearest(source_weight(source, module), {.scale_dtype = scale}, {.grid = grid});
    for (const auto& [tensor, data] : to_disk(module, weight, format)) {
      EXPECT_EQ(hash_of(data), hashes.at(tensor).get<std::string>()) << tensor;
    }
    ++modules;
  }
  EXPECT_GE(modules, 121);
}

INSTANTIATE_TEST_SUITE_P(
    Runs, WholeModel,
    testing::Values(std::tuple{"rtn_mm", Grid::compressed_tensors, kCompressedTensors},
                    std::tuple{"ar_rtn_mm", Grid::auto_round, kAutoGptq},
                    std::tuple{"ar_rtn_gptq", Grid::auto_round, kGptq},
                    std::tuple{"ar_rtn_ct", Grid::auto_round, kCompressedTensors}),
    [](const auto& info) { return std::get<0>(info.param); });

}  // namespace
}  // namespace quern::quant
