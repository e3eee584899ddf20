#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <map>

#include "base/error.h"
#include "base/file.h"

namespace quern::engine {
namespace {

// Probabilities 0.1, 0.4, 0.2, 0.3 at temperature 1.
std::vector<float> logits() {
  return {std::log(0.1f), std::log(0.4f), std::log(0.2f), std::log(0.3f)};
}

std::map<int32_t, double> distribution(const Sampling& sampling) {
  std::map<int32_t, double> by_id;
  for (const Choice& choice : choices(logits(), sampling)) by_id[choice.id] = choice.probability;
  return by_id;
}

void expect_distribution(const Sampling& sampling, const std::map<int32_t, double>& expected) {
  const auto got = distribution(sampling);
  ASSERT_EQ(got.size(), expected.size());
  for (const auto& [id, probability] : expected) {
    ASSERT_TRUE(got.contains(id)) << id;
    EXPECT_NEAR(got.at(id), probability, 1e-7) << id;
  }
}

std::string error_of(const std::function<void()>& action, Exit expected) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), expected);
    return error.what();
  }
  return "";
}

TEST(SamplerTest, Softmax) { expect_distribution({}, {{0, 0.1}, {1, 0.4}, {2, 0.2}, {3, 0.3}}); }

TEST(SamplerTest, TemperatureSquaresAtOneHalf) {
  expect_distribution({.temperature = 0.5},
                      {{0, 0.01 / 0.3}, {1, 0.16 / 0.3}, {2, 0.04 / 0.3}, {3, 0.09 / 0.3}});
}

TEST(SamplerTest, TemperatureZeroIsTheFirstOfTheLikeliest) {
  expect_distribution({.temperature = 0}, {{1, 1.0}});
  const std::vector<float> equal = {1, 3, 3, 2};
  EXPECT_EQ(choices(equal, {.temperature = 0}).front().id, 1);
}

TEST(SamplerTest, TopK) {
  expect_distribution({.top_k = 2}, {{1, 0.4 / 0.7}, {3, 0.3 / 0.7}});
  expect_distribution({.top_k = 9}, distribution({}));
}

TEST(SamplerTest, TopPKeepsTheTokenThatCrossesTheLimit) {
  expect_distribution({.top_p = 0.75}, {{1, 0.4 / 0.9}, {2, 0.2 / 0.9}, {3, 0.3 / 0.9}});
  expect_distribution({.top_p = 0.65}, {{1, 0.4 / 0.7}, {3, 0.3 / 0.7}});
  expect_distribution({.top_p = 1e-6}, {{1, 1.0}});
}

TEST(SamplerTest, TopPCountsWhatTopKLeft) {
  // Of 4/9, 3/9, 2/9 the first holds less than half, two of them more.
  expect_distribution({.top_k = 3, .top_p = 0.5}, {{1, 0.4 / 0.7}, {3, 0.3 / 0.7}});
}

TEST(SamplerTest, MinPIsRelativeToTheLikeliest) {
  expect_distribution({.min_p = 0.6}, {{1, 0.4 / 0.7}, {3, 0.3 / 0.7}});
  expect_distribution({.min_p = 1}, {{1, 1.0}});
}

TEST(SamplerTest, DrawsFollowTheDistributionAndTheSeed) {
  auto draws = [](uint64_t seed) {
    Sampler sampler({.seed = seed}, 4);
    std::vector<int32_t> ids;
    for (int i = 0; i < 4000; ++i) ids.push_back(sampler.next(logits()));
    return ids;
  };
  const auto ids = draws(7);
  EXPECT_EQ(ids, draws(7));
  EXPECT_NE(ids, draws(8));
  // Four standard deviations of a share of 4000 draws are below 0.031.
  const double shares[] = {0.1, 0.4, 0.2, 0.3};
  for (int32_t id = 0; id < 4; ++id)
    EXPECT_NEAR(static_cast<double>(std::count(ids.begin(), ids.end(), id)) / 4000, shares[id],
                0.031);
}

// numpy.random.default_rng(0).random(4) is 0.637, 0.270, 0.041, 0.017; the running sums of the
// probabilities are 0.1, 0.5, 0.7, 1.
TEST(SamplerTest, DrawsAreThoseOfNumpy) {
  Sampler sampler({.seed = 0}, 4);
  std::vector<int32_t> ids;
  for (int i = 0; i < 4; ++i) ids.push_back(sampler.next(logits()));
  EXPECT_EQ(ids, (std::vector<int32_t>{2, 1, 0, 0}));
}

TEST(SamplerTest, PenaltyDividesPositiveAndMultipliesNegativeLogits) {
  const std::vector<float> logits = {2.0f, 1.5f, -1.0f};
  Sampler sampler({.temperature = 0, .repetition_penalty = 2}, 3);
  EXPECT_EQ(sampler.next(logits), 0);
  EXPECT_EQ(sampler.next(logits), 1);  // 2 became 1
  EXPECT_EQ(sampler.next(logits), 0);  // 1.5 became 0.75; a token is penalised once
  const std::vector<float> negative = {-1.0f, -1.5f};
  Sampler prompted({.temperature = 0, .repetition_penalty = 2}, 2);
  const int32_t seen[] = {0};
  prompted.see(seen);
  EXPECT_EQ(prompted.next(negative), 1);
}

TEST(SamplerTest, RowsBeyondTheVocabularyAreNeverDrawn) {
  const std::vector<float> logits = {1.0f, 2.0f, 9.0f};
  EXPECT_EQ(Sampler({.temperature = 0}, 2).next(logits), 1);
  Sampler sampler({.temperature = 50}, 2);
  for (int i = 0; i < 100; ++i) EXPECT_LT(sampler.next(logits), 2);
}

TEST(SamplerTest, RefusesLogitsThatAreNoNumbers) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  for (const std::vector<float>& bad :
       {std::vector<float>{1, nan}, {nan, 1}, {1, infinity}, {-infinity, -infinity}})
    EXPECT_NE(error_of([&] { choices(bad, {}); }, Exit::invalid_input).find("not numbers"),
              std::string::npos);
  // A single token may be ruled out.
  EXPECT_EQ(choices(std::vector<float>{1, -infinity}, {}).size(), 1u);
}

TEST(SamplerTest, SettingsOutOfRange) {
  auto refused = [](const Sampling& sampling) {
    return error_of([&] { sampling.check(); }, Exit::usage);
  };
  EXPECT_EQ(refused({}), "");
  EXPECT_EQ(refused({.temperature = -1}), "temperature is -1, it must lie between 0 and 100");
  EXPECT_NE(refused({.top_k = -1}), "");
  EXPECT_NE(refused({.top_p = 0}), "");
  EXPECT_NE(refused({.min_p = 1.5}), "");
  EXPECT_NE(refused({.repetition_penalty = 0}), "");
  EXPECT_NE(refused({.temperature = std::nan("")}), "");
}

TEST(SamplerTest, RecommendedByTheModel) {
  const auto data = std::filesystem::path(QUERN_SOURCE_DIR) / "tests/data";
  const Sampling sampling = recommended_sampling(data / "tiny-qwen3.6");
  EXPECT_EQ(sampling.temperature, 1.0);
  EXPECT_EQ(sampling.top_k, 20);
  EXPECT_EQ(sampling.top_p, 0.95);
  EXPECT_EQ(sampling.repetition_penalty, 1.0);
  EXPECT_EQ(recommended_sampling(data / "rows").top_k, 0);  // no generation_config.json
}

}  // namespace
}  // namespace quern::engine
