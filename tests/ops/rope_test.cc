// Frequencies are those of transformers 5.23 (modeling_rope_utils.py) for the same parameters.
#include "ops/rope.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"

namespace quern::ops {
namespace {

Rope rope_of(const JsonValue& config, int64_t head_dim) {
  return Rope(Json(config, "config.json"), head_dim);
}

JsonValue nested(JsonValue parameters) {
  return {{"max_position_embeddings", 131072}, {"rope_parameters", std::move(parameters)}};
}

void expect_frequencies(const Rope& rope, const std::vector<double>& expected) {
  Tensor wanted = at::tensor(expected, at::kDouble);
  ASSERT_EQ(rope.frequencies().size(0), wanted.size(0));
  Tensor ratio = rope.frequencies().to(at::kDouble) / wanted;
  EXPECT_TRUE(at::allclose(rope.frequencies().to(at::kDouble), wanted, 1e-6, 0.0)) << ratio;
}

TEST(Rope, Llama3SlowsLongWavesDown) {
  expect_frequencies(
      rope_of(nested({{"rope_type", "llama3"},
                      {"rope_theta", 500000.0},
                      {"factor", 8.0},
                      {"low_freq_factor", 1.0},
                      {"high_freq_factor", 4.0},
                      {"original_max_position_embeddings", 8192}}),
              32),
      {1.0, 0.440366626, 0.193922758, 0.0853971019, 0.0376060307, 0.0165604409, 0.00729266508,
       0.00321144611, 0.000524846022, 7.78465546e-05, 3.42810235e-05, 1.50962178e-05,
       6.64786967e-06, 2.92749974e-06, 1.28917316e-06, 5.6770881e-07});
}

// As in older transformers: theta next to `rope_scaling`, and "type".
TEST(Rope, LinearScalingInTheOldSpelling) {
  expect_frequencies(
      rope_of({{"rope_theta", 10000.0}, {"rope_scaling", {{"type", "linear"}, {"factor", 4.0}}}},
              16),
      {0.25, 0.079056941, 0.0250000004, 0.00790569466, 0.00249999994, 0.000790569466,
       0.000250000012, 7.90569466e-05});
}

TEST(Rope, Yarn) {
  const Rope plain = rope_of(nested({{"rope_type", "yarn"},
                                     {"rope_theta", 1e6},
                                     {"factor", 4.0},
                                     {"original_max_position_embeddings", 32768}}),
                             32);
  expect_frequencies(
      plain, {1.0, 0.421696514, 0.177827939, 0.0749894157, 0.0316227786, 0.0133352149,
              0.00477990136, 0.00165996165, 0.000549999997, 0.000168678584, 4.44569851e-05,
              1.87473561e-05, 7.90569356e-06, 3.33380353e-06, 1.40585337e-06, 5.92843435e-07});
  EXPECT_NEAR(plain.magnitude(), 1.138629436111989, 1e-12);

  const Rope all = rope_of(nested({{"rope_type", "yarn"},
                                   {"rope_theta", 1e4},
                                   {"factor", 40.0},
                                   {"original_max_position_embeddings", 4096},
                                   {"beta_fast", 16.0},
                                   {"beta_slow", 2.0},
                                   {"mscale", 0.7},
                                   {"mscale_all_dim", 1.0},
                                   {"truncate", false}}),
                           32);
  expect_frequencies(
      all, {1.0, 0.562341332, 0.316227764, 0.177827939, 0.100000001, 0.0562341288, 0.0316227786,
            0.0150961196, 0.00579010462, 0.00173821871, 0.000123952457, 4.44569851e-05,
            2.49999994e-05, 1.40585325e-05, 7.90569447e-06, 4.44569832e-06});
  EXPECT_NEAR(all.magnitude(), 0.9191559952044436, 1e-12);
  // The magnitude multiplies the rotated dimensions; position 0 rotates nothing.
  Tensor x = at::ones({1, 1, 32});
  EXPECT_TRUE(at::allclose(all(x, at::zeros({1}, at::kLong)), x * all.magnitude()));
}

// A quarter of the frequencies, over the whole width, and pairs across the whole head.
TEST(Rope, ProportionalOfOneTypeOfLayer) {
  const JsonValue config = nested(
      {{"full_attention",
        {{"rope_type", "proportional"}, {"rope_theta", 1e6}, {"partial_rotary_factor", 0.25}}},
       {"sliding_attention", {{"rope_theta", 1e4}}}});
  const Rope full(Json(config, "config.json"), "full_attention", 32);
  std::vector<double> expected = {1.0, 0.421696514, 0.177827939, 0.0749894157};
  EXPECT_TRUE(at::allclose(full.frequencies().slice(0, 0, 4).to(at::kDouble),
                           at::tensor(expected, at::kDouble), 1e-6, 0.0));
  EXPECT_EQ(full.frequencies().slice(0, 4).abs().max().item<float>(), 0);
  Tensor x = at::zeros({1, 1, 32});
  x[0][0][1] = 1;
  Tensor turned = full(x, at::tensor({3}, at::kLong))[0][0];
  EXPECT_NEAR(turned[1].item<double>(), std::cos(3 * 0.421696514), 1e-6);
  EXPECT_NEAR(turned[17].item<double>(), std::sin(3 * 0.421696514), 1e-6);
  const Rope sliding(Json(config, "config.json"), "sliding_attention", 32);
  EXPECT_NEAR(sliding.frequencies()[15].item<double>(), std::pow(1e4, -30.0 / 32), 1e-9);
}

// After rotation, the product of q and k depends only on the distance of their positions.
TEST(Rope, ProductsDependOnDistanceOnly) {
  at::manual_seed(3);
  const Rope rope = rope_of(nested({{"rope_theta", 1e4}, {"partial_rotary_factor", 0.5}}), 16);
  Tensor q = at::randn({1, 1, 16}), k = at::randn({1, 1, 16});
  auto product = [&](int64_t i, int64_t j) {
    return (rope(q, at::tensor({i}, at::kLong)) * rope(k, at::tensor({j}, at::kLong)))
        .sum()
        .item<double>();
  };
  EXPECT_NEAR(product(7, 3), product(104, 100), 1e-4);
  EXPECT_GT(std::abs(product(7, 3) - product(7, 2)), 1e-3);
}

TEST(Rope, RefusesByName) {
  auto message = [](const JsonValue& config) -> std::string {
    try {
      rope_of(config, 32);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_NE(message(nested({{"rope_type", "longrope"}})).find("\"longrope\" is not implemented"),
            std::string::npos);
  EXPECT_NE(message(nested({{"rope_theta", 1e4}, {"short_factor", {1.0}}})).find("short_factor"),
            std::string::npos);
  EXPECT_NE(message(nested({{"rope_type", "linear"}})).find("factor"), std::string::npos);
  EXPECT_NE(message(nested({{"rope_type", "linear"}, {"factor", 0.0}})).find("must be positive"),
            std::string::npos);
  EXPECT_NE(message(nested({{"partial_rotary_factor", 1.5}})).find("partial_rotary_factor 1.5"),
            std::string::npos);
  EXPECT_NE(message(nested({{"mrope_section", {1, 2}}})).find("three numbers"), std::string::npos);
}

}  // namespace
}  // namespace quern::ops
