// AWQ: the search against llm-compressor's, and whole jobs.
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "compress/awq_loss.h"
#include "compress/awq_search.h"
#include "compress/calibrate.h"
#include "compress/channel_sums.h"
#include "nn/nn.h"
#include "nn/tap.h"
#include "quant/record.h"
#include "tests/compress/job.h"
#include "tests/quant/golden.h"

namespace quern::compress {
namespace {

using quant::Golden;

// The block of the goldens: x + mlp(norm(x)).
class ToyBlock : public nn::Block {
 public:
  ToyBlock(const Tensor& norm, const Tensor& gate, const Tensor& up, const Tensor& down)
      : norm_(norm.to(at::kFloat), 1e-6),
        gate_(add("gate_proj", gate, "gate_up")),
        up_(add("up_proj", up, "gate_up")),
        down_(add("down_proj", down, "down")),
        mlp_(nn::Linear({gate_, up_}, {gate.size(0), up.size(0)}, {}), nn::Linear(down_),
             nn::Activation::silu) {
    sites_.linears[2].producer = "up_proj";
    sites_.norms.push_back({"norm.weight", norm_, false, norm.scalar_type(), {"gate_up"}});
  }

  Tensor mixed(const Tensor& x, nn::Pass&) const override { return x; }
  Tensor fed_forward(const Tensor& x, nn::Pass&) const override { return x + mlp_(norm_(x)); }

  const Sites& sites() const { return sites_; }
  Tensor stored(const std::string& name) const { return stored_tensor(sites_, name + ".weight"); }

 private:
  nn::Weight add(const std::string& name, const Tensor& matrix, const std::string& input) {
    const nn::Weight weight(name, std::make_shared<ops::DenseStack>(std::vector<Tensor>{matrix}));
    sites_.linears.push_back({name, weight, 0, name + ".weight", input, "", nn::Role::ordinary});
    return weight;
  }

  Sites sites_;
  nn::Norm norm_;
  nn::Weight gate_, up_, down_;
  nn::Mlp mlp_;
};

AwqSettings settings_of(const JsonValue& params, AwqRules rules) {
  const JsonValue& duo = params["duo_scaling"];
  return {.duo_scaling = duo == "both" ? DuoScaling::both
                         : duo == true ? DuoScaling::on
                                       : DuoScaling::off,
          .grid = params["n_grid"],
          .rules = rules};
}

quant::Scheme scheme_of(const JsonValue& params, DType dtype) {
  return {
      .group_size = params["group_size"], .symmetric = params["symmetric"], .scale_dtype = dtype};
}

std::vector<double> numbers(const Tensor& x) {
  const Tensor wide = x.to(at::kDouble).contiguous();
  return {wide.const_data_ptr<double>(), wide.const_data_ptr<double>() + wide.numel()};
}

void expect_near(const std::vector<double>& got, const std::vector<double>& wanted,
                 double tolerance, const char* what) {
  ASSERT_EQ(got.size(), wanted.size()) << what;
  for (size_t i = 0; i < got.size(); ++i)
    ASSERT_NEAR(got[i] / wanted[i], 1, tolerance) << what << " " << i;
}

// The best try is compared where it leads by more than the tolerance.
void expect_same_search(const AwqResult& got, const JsonValue& wanted, double tolerance) {
  const auto losses = wanted["losses"].get<std::vector<double>>();
  expect_near(got.losses, losses, tolerance, "loss");
  const size_t best = wanted["best"].get<size_t>();
  for (size_t i = 0; i < losses.size(); ++i)
    if (i != best && losses[i] < (1 + 2 * tolerance) * losses[best]) return;
  EXPECT_EQ(got.best, best);
}

// What the search of a case starts from.
struct Inputs {
  ToyBlock block;
  Samples samples;
  double tolerance = 0;

  Inputs(const Golden& golden, const JsonValue& in, const std::string& prefix)
      : block(golden.has(in, "norm.weight") ? golden.tensor(in, "norm.weight") : at::ones({128}),
              golden.tensor(in, prefix + "gate_proj.weight"),
              golden.tensor(in, prefix + "up_proj.weight"),
              golden.tensor(in, prefix + "down_proj.weight")),
        samples(std::vector<int64_t>(6, 24)) {
    const Tensor x = golden.tensor(in, "inputs").flatten(0, 1);
    for (int64_t i = 0; i < 6; ++i) samples.write({i}, x[i].to(at::kFloat));
    // Samples are in bf16, and so is all that the peer computes with bf16 weights.
    tolerance = 2e-2;
  }
};

struct Statistics {
  ChannelSums norm{1, 128, false}, down{1, 256, true};

  Statistics(const ToyBlock& block, const Samples& samples) {
    const auto& linears = block.sites().linears;
    const nn::Tapped first({linears[0].weight, linears[1].weight}, norm),
        second({linears[2].weight}, down);
    look_at_block(block, samples);
  }
};

TEST(AwqSearch, EqualsLlmCompressors) {
  prepare_torch();
  const Golden golden("awq_block");
  std::map<std::string, JsonValue> inputs;
  int compared = 0;
  for (const JsonValue& one : golden.cases()) {
    const auto id = one["id"].get<std::string>();
    const JsonValue& params = one["params"];
    if (!params.contains("input")) {
      inputs[id] = one;
      continue;
    }
    SCOPED_TRACE(id);
    Inputs in(golden, inputs.at(params["input"].get<std::string>()), "mlp.");
    const auto& linears = in.block.sites().linears;
    const Tensor down = linears[2].weight.dense()->matrix(0);
    const quant::Scheme scheme = scheme_of(params, down.scalar_type());
    const std::vector<AwqTry> tries = awq_tries(settings_of(params, AwqRules::since_0_11));
    const JsonValue& grid = one["results"]["norm"]["grid"];
    ASSERT_EQ(tries.size(), grid.size());
    for (size_t i = 0; i < tries.size(); ++i) {
      EXPECT_NEAR(tries[i].ratio, grid[i][0].get<double>(), 1e-12);
      EXPECT_EQ(tries[i].duo, grid[i][1].get<bool>());
    }

    Statistics statistics(in.block, in.samples);
    const std::vector<Smoothing> smoothings = smoothings_of(in.block.sites());
    ASSERT_EQ(smoothings.size(), 2u);
    const std::vector<double> x = statistics.norm.mean_of_all("norm"),
                              x_down = statistics.down.mean(0, "down");
    const std::vector<double> w_down = relative_sizes({{down, scheme}});
    AwqResult of_norm, of_down;
    {
      const OutputLoss loss(
          smoothings[0], [&](const auto&) { return &scheme; }, AwqRules::since_0_11, in.block,
          in.samples);
      const std::vector<double> w = relative_sizes(loss.quantized());
      if (golden.has(one, "norm.x_mean")) {
        const std::vector<double> peers = numbers(golden.tensor(one, "norm.x_mean"));
        expect_near(x, peers, 1e-2, "x");
        const auto best = one["results"]["norm"]["best"].get<size_t>();
        const Tensor scale = golden.tensor(one, "norm.scales").to(at::kFloat);
        EXPECT_LT(relative_distance(awq_scale(tries[best], peers, w), scale), 1e-5);
      }
      of_norm = awq_search(tries, x, w, std::cref(loss));
      expect_same_search(of_norm, one["results"]["norm"], in.tolerance);
    }
    const GramLoss loss(down, statistics.down.grams()->take(0, "down"), statistics.down.tokens(0),
                        scheme, AwqRules::since_0_11);
    of_down = awq_search(tries, x_down, w_down, std::cref(loss));
    expect_same_search(of_down, one["results"]["up_proj"], in.tolerance);

    // Restored, then moved for good.
    EXPECT_TRUE(at::equal(linears[0].weight.dense()->matrix(0),
                          golden.tensor(inputs.at(params["input"]), "mlp.gate_proj.weight")));
    if (golden.has(one, "smoothed.norm.weight") &&
        of_norm.best == one["results"]["norm"]["best"].get<size_t>() &&
        of_down.best == one["results"]["up_proj"]["best"].get<size_t>()) {
      move_scales({smoothings[0]}, {of_norm.scale});
      move_scales({smoothings[1]}, {of_down.scale});
      EXPECT_LT(
          relative_distance(in.block.stored("norm"), golden.tensor(one, "smoothed.norm.weight")),
          5e-3);
      for (const char* name : {"gate_proj", "up_proj", "down_proj"})
        EXPECT_LT(
            relative_distance(
                in.block.stored(name).to(at::kFloat),
                golden.tensor(one, fmt::format("smoothed.mlp.{}.weight", name)).to(at::kFloat)),
            1e-2)
            << name;
    }
    ++compared;
  }
  EXPECT_EQ(compared, 18);
}

// Up to 0.10: another grid of scales, another grid of codes. The inputs are those of the mlp.
TEST(AwqSearch, EqualsLlmCompressorsBefore011) {
  prepare_torch();
  const Golden golden("awq_block_0_8");
  std::map<std::string, JsonValue> inputs;
  int compared = 0;
  for (const JsonValue& one : golden.cases()) {
    const auto id = one["id"].get<std::string>();
    const JsonValue& params = one["params"];
    if (!params.contains("input")) {
      inputs[id] = one;
      continue;
    }
    SCOPED_TRACE(id);
    const JsonValue& in = inputs.at(params["input"].get<std::string>());
    const Tensor gate = golden.tensor(in, "gate_proj.weight"),
                 up = golden.tensor(in, "up_proj.weight");
    const quant::Scheme scheme = scheme_of(params, gate.scalar_type());
    const AwqSettings settings = settings_of(params, AwqRules::until_0_10);
    const std::vector<AwqTry> tries = awq_tries(settings);
    ASSERT_EQ(tries.size(), 20u);
    EXPECT_EQ(tries[7].ratio, 0.35);
    expect_near(relative_sizes({{gate, scheme}, {up, scheme}}),
                numbers(golden.tensor(one, "w_mean")), 1e-2, "w");
    const auto best = one["results"]["best"].get<size_t>();
    const Tensor scale = awq_scale(tries[best], numbers(golden.tensor(one, "x_mean")),
                                   numbers(golden.tensor(one, "w_mean")));
    EXPECT_LT(relative_distance(scale, golden.tensor(one, "scales").to(at::kFloat)), 1e-2);
    if (golden.has(one, "pseudo_quantized_gate_proj")) {
      const auto codes = quant::round_to_nearest(gate, scheme, {.grid = quant::Grid::awq});
      EXPECT_TRUE(at::equal(codes.scales, golden.tensor(one, "pseudo_quantized_gate_proj_scale")));
      EXPECT_LT(relative_distance(quant::dequantize(codes, at::kFloat),
                                  golden.tensor(one, "pseudo_quantized_gate_proj").to(at::kFloat)),
                gate.scalar_type() == at::kFloat ? 1e-6 : 4e-3);
    }
    ++compared;
  }
  EXPECT_EQ(compared, 8);
}

class AwqTest : public CompressTest {};

const std::string kNearest = rounding("QuantizationModifier");

// Scale alone changes nothing: with the codes of a weight rounded after it, the error is smaller
// than without it.
TEST_F(AwqTest, BeatsRoundToNearestInEveryFamily) {
  for (const char* model : {"qwen36", "glm45", "gemma4", "sarvam", "qwen3", "llama"}) {
    SCOPED_TRACE(model);
    run_recipe(model, "AWQModifier: {}, " + kNearest, "awq");
    run_recipe(model, kNearest, "rtn");
    EXPECT_LT(distance(model, "awq"), distance(model, "rtn"));
    fs::remove_all(folder_);
  }
}

TEST_F(AwqTest, GoesBeforeAnyRounding) {
  run_recipe("qwen3", "AWQModifier: {}, " + rounding("GPTQModifier"), "both");
  run_recipe("qwen3", "AWQModifier: {}, " + kNearest, "awq");
  EXPECT_LT(distance("qwen3", "both"), distance("qwen3", "awq"));
}

// The recipe of a published GLM-4.5-Air: the modifier quantizes, and its mapping omits the router
// and the shared experts.
constexpr const char* kExperts =
    "AWQModifier: {config_groups: {group_0: {targets: "
    "['re:.*mlp\\.experts\\.[0-9]+\\.(down|gate|up)_proj$'], weights: {num_bits: 4, type: int, "
    "symmetric: true, group_size: 32, strategy: group, observer: mse}}}, mappings: ["
    "{smooth_layer: 're:.*post_attention_layernorm$', balance_layers: ['re:.*gate_proj$', "
    "'re:.*up_proj$']}, {smooth_layer: 're:.*up_proj$', balance_layers: ['re:.*down_proj$']}], "
    "duo_scaling: true}";

TEST_F(AwqTest, CompletesAMappingThatOmitsTheRouter) {
  const CompressReport report = run_recipe("glm45", kExperts, "awq");
  const auto warned = std::ranges::find_if(report.warnings, [](const std::string& warning) {
    return warning.find("omits") != std::string::npos;
  });
  ASSERT_NE(warned, report.warnings.end());
  EXPECT_NE(warned->find(".mlp.gate"), std::string::npos) << *warned;
  const checkpoint::Checkpoint made(folder_ / "awq"), source(test_data("glm45"));
  const auto changed = [&](const std::string& tensor) {
    return !std::ranges::equal(made.bytes(tensor), source.bytes(tensor));
  };
  EXPECT_TRUE(changed("model.layers.1.post_attention_layernorm.weight"));
  EXPECT_TRUE(changed("model.layers.1.mlp.gate.weight"));
  EXPECT_TRUE(changed("model.layers.1.mlp.shared_experts.up_proj.weight"));
  EXPECT_FALSE(changed("model.layers.1.mlp.shared_experts.down_proj.weight"));
  EXPECT_FALSE(changed("model.layers.1.input_layernorm.weight"));
  EXPECT_FALSE(changed("model.layers.0.post_attention_layernorm.weight"));  // a dense block
}

TEST_F(AwqTest, SameBytesForEveryNumberOfThreads) {
  for (const int threads : {1, 3}) {
    set_threads(threads);
    run_recipe("qwen36", "AWQModifier: {duo_scaling: both, n_grid: 6}, " + kNearest,
               std::to_string(threads));
  }
  expect_same_bytes("1", "3");
}

// The kept tensors that changed, and no others, are in the record with their digests.
TEST_F(AwqTest, ChangedTensorsAreRecorded) {
  run_recipe("qwen3", "AWQModifier: {n_grid: 4}, " + kNearest, "awq");
  const checkpoint::Checkpoint made(folder_ / "awq"), source(test_data("qwen3"));
  const auto records = quant::read_records(folder_ / "awq");
  ASSERT_TRUE(records);
  size_t changed = 0;
  for (const std::string& name : made.names()) {
    if (!source.has(name) || std::ranges::equal(made.bytes(name), source.bytes(name))) continue;
    ++changed;
    ASSERT_TRUE(records->changed.contains(name)) << name;
    EXPECT_EQ(records->changed.at(name), quant::digest(made.tensor(name))) << name;
  }
  EXPECT_GT(changed, 0u);
  for (const auto& [module, record] : records->matrices)
    EXPECT_EQ(record.bound.kind == quant::Bound::Kind::rescaled,
              module.find("o_proj") == std::string::npos)
        << module;
}

TEST_F(AwqTest, ExpertsWithoutTokensAreNamed) {
  const CompressReport report = run("qwen36", recipe_of("AWQModifier: {n_grid: 2}, " + kNearest),
                                    calibration(1, 2, 512), "awq", kCompressedTensors);
  EXPECT_TRUE(std::ranges::any_of(report.warnings, [](const std::string& warning) {
    return warning.find("not smoothed: no calibration token reached it") != std::string::npos;
  }));
}

TEST_F(AwqTest, RefusesARecipeThatMovesNothing) {
  try {
    run_recipe("qwen3",
               "AWQModifier: {mappings: [{smooth_layer: 're:.*nothing$', balance_layers: "
               "['re:.*q_proj$']}]}, " +
                   kNearest,
               "awq");
    FAIL() << "it ran";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("nothing"), std::string::npos) << error.what();
    EXPECT_EQ(error.code(), Exit::infeasible);
  }
}

}  // namespace
}  // namespace quern::compress
