#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>

#include "base/error.h"
#include "base/random.h"

namespace quern::engine {
namespace {

// Probabilities 0.1, 0.4, 0.2, 0.3 at temperature 1.
std::vector<float> logits() {
  return {std::log(0.1f), std::log(0.4f), std::log(0.2f), std::log(0.3f)};
}

std::map<int32_t, double> distribution(const Sampling& sampling) {
  std::map<int32_t, double> by_id;
  double sum = 0;
  for (const Choice& choice : choices(logits(), sampling)) sum += std::exp(choice.logit);
  for (const Choice& choice : choices(logits(), sampling))
    by_id[choice.id] = std::exp(choice.logit) / sum;
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

Sampler sampler_of(const Request& request, int64_t ids = 4, uint64_t entropy = 0) {
  return Sampler(request, ids, LogprobsMode::raw_logprobs, entropy);
}

// The answer of `count` tokens that a sampler draws from the same logits again and again.
std::vector<int32_t> answer_of(const Request& request, std::span<const float> logits, int count,
                               uint64_t entropy = 0) {
  Sampler sampler = sampler_of(request, std::ssize(logits), entropy);
  std::vector<int32_t> answer;
  for (int i = 0; i < count; ++i) answer.push_back(sampler.next(logits, answer).token);
  return answer;
}

TEST(SamplerTest, DrawsFollowTheDistributionAndTheSeed) {
  auto draws = [](std::optional<uint64_t> seed, uint32_t lane, uint64_t entropy) {
    return answer_of({.sampling = {.seed = seed, .lane = lane}}, logits(), 4000, entropy);
  };
  const auto ids = draws(7, 0, 0);
  EXPECT_EQ(ids, draws(7, 0, 1));
  EXPECT_NE(ids, draws(8, 0, 0));
  EXPECT_NE(ids, draws(7, 1, 0));
  EXPECT_NE(draws(std::nullopt, 0, 1), draws(std::nullopt, 0, 2));
  // Four standard deviations of a share of 4000 draws are below 0.031.
  const double shares[] = {0.1, 0.4, 0.2, 0.3};
  for (int32_t id = 0; id < 4; ++id)
    EXPECT_NEAR(static_cast<double>(std::count(ids.begin(), ids.end(), id)) / 4000, shares[id],
                0.031);
}

TEST(SamplerTest, ADrawDependsOnItsPlaceAlone) {
  const Request request{.sampling = {.seed = 3}};
  const auto whole = answer_of(request, logits(), 50);
  for (size_t place : {0u, 1u, 17u, 49u}) {
    Sampler fresh = sampler_of(request);
    EXPECT_EQ(fresh.next(logits(), std::span(whole).first(place)).token, whole[place]);
  }
}

TEST(SamplerTest, PenaltyDividesPositiveAndMultipliesNegativeLogits) {
  const Sampling sampling{.temperature = 0, .repetition_penalty = 2};
  // 2 becomes 1, then 1.5 becomes 0.75; a token is penalised once.
  EXPECT_EQ(answer_of({.sampling = sampling}, std::vector<float>{2.0f, 1.5f, -1.0f}, 3),
            (std::vector<int32_t>{0, 1, 0}));
  EXPECT_EQ(answer_of({.tokens = {0}, .sampling = sampling}, std::vector<float>{-1.0f, -1.5f}, 1),
            std::vector<int32_t>{1});
}

TEST(SamplerTest, FrequencyCountsAndPresenceDoesNot) {
  const std::vector<float> logits = {2.0f, 0.7f};
  EXPECT_EQ(answer_of({.sampling = {.temperature = 0, .frequency_penalty = 0.5}}, logits, 6),
            (std::vector<int32_t>{0, 0, 0, 1, 0, 1}));
  EXPECT_EQ(answer_of({.sampling = {.temperature = 0, .presence_penalty = 1.5}}, logits, 4),
            (std::vector<int32_t>{0, 1, 0, 0}));
  // They see the answer only.
  EXPECT_EQ(answer_of({.tokens = {0}, .sampling = {.temperature = 0, .presence_penalty = 1.5}},
                      logits, 1),
            std::vector<int32_t>{0});
}

TEST(SamplerTest, BadWordsNeverEnd) {
  const std::vector<float> logits = {3.0f, 2.0f, 1.0f};
  EXPECT_EQ(
      answer_of({.sampling = {.temperature = 0, .bad_words = {{0, 0}, {0, 1, 0}}}}, logits, 5),
      (std::vector<int32_t>{0, 1, 1, 0, 1}));
  EXPECT_EQ(answer_of({.sampling = {.temperature = 0, .bad_words = {{0}}}}, logits, 1),
            std::vector<int32_t>{1});
}

TEST(SamplerTest, AllowedBiasedAndMinimalLength) {
  const std::vector<float> logits = {3.0f, 2.0f, 1.0f, 0.0f};
  EXPECT_EQ(answer_of({.sampling = {.temperature = 0, .allowed_ids = {3, 2}}}, logits, 1),
            std::vector<int32_t>{2});
  EXPECT_EQ(answer_of({.sampling = {.temperature = 0, .logit_bias = {{3, 4.0f}, {0, -100.0f}}}},
                      logits, 1),
            std::vector<int32_t>{3});
  EXPECT_EQ(
      answer_of({.min_tokens = 2, .sampling = {.temperature = 0}, .stop_ids = {0, 1}}, logits, 3),
      (std::vector<int32_t>{2, 2, 0}));
  EXPECT_NE(
      error_of(
          [&] { answer_of({.sampling = {.bad_words = {{1}}, .allowed_ids = {1}}}, logits, 1); },
          Exit::usage)
          .find("no token"),
      std::string::npos);
}

TEST(SamplerTest, RowsBeyondTheVocabularyAreNeverDrawn) {
  const std::vector<float> logits = {1.0f, 2.0f, 9.0f};
  Sampler greedy = sampler_of({.sampling = {.temperature = 0}}, 2);
  EXPECT_EQ(greedy.next(logits, {}).token, 1);
  Sampler sampler = sampler_of({.sampling = {.temperature = 50}}, 2);
  for (int i = 0; i < 100; ++i) EXPECT_LT(sampler.next(logits, {}).token, 2);
}

TEST(SamplerTest, RefusesLogitsThatAreNoNumbers) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  for (const std::vector<float>& bad : {std::vector<float>{1, nan}, {nan, 1}, {1, infinity}})
    EXPECT_NE(error_of([&] { choices(bad, {}); }, Exit::invalid_input).find("not numbers"),
              std::string::npos);
  // A single token may be ruled out.
  EXPECT_EQ(choices(std::vector<float>{1, -infinity}, {}).size(), 1u);
}

TEST(SamplerTest, ReportsRankAndTheLikeliest) {
  Sampler sampler =
      sampler_of({.sampling = {.temperature = 0, .logit_bias = {{0, 5.0f}}}, .logprobs = 2});
  const TokenReport report = *sampler.next(logits(), {}).report;
  EXPECT_NEAR(report.logprob, std::log(0.1), 1e-6);  // as the model gave it, without the bias
  EXPECT_EQ(report.rank, 4);
  ASSERT_EQ(report.top.size(), 2u);
  EXPECT_EQ(report.top[0].id, 1);
  EXPECT_NEAR(report.top[0].logprob, std::log(0.4), 1e-6);
  EXPECT_EQ(report.top[1].id, 3);
  EXPECT_FALSE(sampler_of({}).next(logits(), {}).report);
}

TEST(SamplerTest, ReportsWhatTheRulesLeft) {
  const Request request{.sampling = {.temperature = 0.5, .top_k = 2, .seed = 1}, .logprobs = 4};
  auto reported = [&](LogprobsMode mode) {
    return Sampler(request, 4, mode, 0).next(logits(), {}).report->top;
  };
  const auto processed = reported(LogprobsMode::processed_logprobs);
  EXPECT_NEAR(processed[0].logprob, std::log(0.16 / 0.25), 1e-6);
  EXPECT_NEAR(processed[1].logprob, std::log(0.09 / 0.25), 1e-6);
  EXPECT_EQ(processed[2].logprob, -std::numeric_limits<float>::infinity());
  EXPECT_NEAR(reported(LogprobsMode::processed_logits)[1].logprob, 2 * std::log(0.3), 1e-6);
  EXPECT_NEAR(reported(LogprobsMode::raw_logits)[3].logprob, std::log(0.1), 1e-6);
}

// The rules word by word, over a sorted list.
std::vector<int32_t> slow_choices(const std::vector<float>& logits, const Sampling& sampling) {
  struct Entry {
    int32_t id;
    double p;
  };
  std::vector<Entry> all;
  for (size_t i = 0; i < logits.size(); ++i)
    all.push_back({static_cast<int32_t>(i), std::exp(logits[i] / sampling.temperature)});
  std::stable_sort(all.begin(), all.end(),
                   [](const Entry& a, const Entry& b) { return a.p > b.p; });
  const double most = all.front().p;
  std::erase_if(all, [&](const Entry& e) { return e.p < sampling.min_p * most * (1 - 1e-9); });
  if (sampling.top_k > 0 && sampling.top_k < std::ssize(all)) {
    const double kth = all[static_cast<size_t>(sampling.top_k) - 1].p;
    std::erase_if(all, [&](const Entry& e) { return e.p < kth; });
  }
  double total = 0, held = 0;
  for (const Entry& e : all) total += e.p;
  std::vector<int32_t> kept;
  for (const Entry& e : all) {
    if (sampling.top_p < 1 && held >= sampling.top_p * total * (1 - 1e-12)) break;
    held += e.p;
    kept.push_back(e.id);
  }
  std::sort(kept.begin(), kept.end());
  return kept;
}

TEST(SamplerTest, ChoicesAreThoseOfASortedList) {
  NumpyRandom random(5);
  auto pick = [&](auto... options) {
    const std::common_type_t<decltype(options)...> all[] = {options...};
    return all[random.next() % sizeof...(options)];
  };
  for (int round = 0; round < 400; ++round) {
    const int64_t size = pick(1, 3, 50, 3000);
    std::vector<float> logits;
    const uint64_t levels = pick(4u, 1000u, 1u << 30);  // few levels: many ties
    for (int64_t i = 0; i < size; ++i)
      logits.push_back(static_cast<float>(random.next() % levels) / static_cast<float>(levels) *
                       8.0f);
    const Sampling sampling{.temperature = pick(0.5, 1.0, 1.7),
                            .top_k = pick(0, 1, 20, 1500),
                            .top_p = pick(1.0, 0.9, 0.3),
                            .min_p = pick(0.0, 0.05, 1.0)};
    std::vector<int32_t> fast;
    for (const Choice& choice : choices(logits, sampling)) fast.push_back(choice.id);
    std::sort(fast.begin(), fast.end());
    ASSERT_EQ(fast, slow_choices(logits, sampling))
        << "round " << round << ", size " << size << ", T " << sampling.temperature << ", top_k "
        << sampling.top_k << ", top_p " << sampling.top_p << ", min_p " << sampling.min_p;
  }
}

// A draw as it is defined: all rules one after another, then the largest logit - log(noise).
int32_t plain_draw(std::vector<float> row, const Request& request, const Noise& noise,
                   std::span<const int32_t> answer) {
  const Sampling& sampling = request.sampling;
  std::map<int32_t, int> counts;
  for (int32_t id : answer) ++counts[id];
  const auto repetition = static_cast<float>(sampling.repetition_penalty);
  for (size_t i = 0; i < row.size(); ++i) {
    const auto id = static_cast<int32_t>(i);
    if (counts.contains(id) || std::ranges::find(request.tokens, id) != request.tokens.end())
      row[i] = row[i] > 0 ? row[i] / repetition : row[i] * repetition;
    if (!counts.contains(id)) continue;
    row[i] -= static_cast<float>(sampling.frequency_penalty) * static_cast<float>(counts.at(id));
    row[i] -= static_cast<float>(sampling.presence_penalty);
  }
  int32_t best = -1;
  double best_score = 0;
  for (const Choice& choice : choices(row, sampling)) {
    const double score = choice.logit - std::log(noise.exponential(std::ssize(answer), choice.id));
    if (best >= 0 && (score < best_score || (score == best_score && choice.id > best))) continue;
    best = choice.id;
    best_score = score;
  }
  return best;
}

class DrawTest : public testing::TestWithParam<int64_t> {
 protected:
  template <class... T>
  auto pick(T... options) {
    const std::common_type_t<T...> all[] = {options...};
    return all[random_.next() % sizeof...(options)];
  }
  std::vector<float> row() {
    const uint64_t levels = pick(uint64_t{3}, uint64_t{1000}, uint64_t{1} << 30);  // few: many ties
    const float width = pick(0.0f, 4.0f, 25.0f, 60.0f);
    std::vector<float> logits;
    for (int64_t i = 0; i < GetParam(); ++i)
      logits.push_back(
          width *
          (static_cast<float>(random_.next() % levels) / static_cast<float>(levels) - 0.6f));
    // A trained model is surer than chance.
    for (int more = pick(0, 3); more > 0; --more)
      logits[random_.next() % logits.size()] += pick(5.0f, 9.0f);
    for (int more = pick(0, 0, 40); more > 0; --more)
      logits[random_.next() % logits.size()] = -std::numeric_limits<float>::infinity();
    return logits;
  }
  Request request() {
    Request request{.tokens = {0}};
    request.sampling = {.temperature = pick(1.0, 1.0, 0.7, 0.02, 0.003, 3.0),
                        .top_k = pick(0, 0, 5),
                        .top_p = pick(1.0, 1.0, 0.95, 0.5, 0.01),
                        .min_p = pick(0.0, 0.0, 0.01, 0.3),
                        .repetition_penalty = pick(1.0, 1.3),
                        .frequency_penalty = pick(0.0, 0.4),
                        .presence_penalty = pick(0.0, -0.5),
                        .seed = random_.next(),
                        .lane = pick(0u, 7u)};
    return request;
  }

  NumpyRandom random_{11};
};

// Not near: the same, whatever way is quicker for the settings.
TEST_P(DrawTest, EqualsThePlainDefinition) {
  const int rounds = static_cast<int>(std::clamp<int64_t>(2'000'000 / GetParam(), 60, 600));
  for (int round = 0; round < rounds; ++round) {
    const Request made = request();
    const std::vector<float> logits = row();
    if (std::ranges::max(logits) < -1e30f) continue;
    Sampler sampler = sampler_of(made, std::ssize(logits));
    const Noise noise(*made.sampling.seed, made.sampling.lane);
    std::vector<int32_t> answer;
    for (int i = 0; i < 4; ++i) {
      const int32_t drawn = sampler.next(logits, answer).token;
      ASSERT_EQ(drawn, plain_draw(logits, made, noise, answer))
          << "round " << round << ", T " << made.sampling.temperature << ", top_k "
          << made.sampling.top_k << ", top_p " << made.sampling.top_p << ", min_p "
          << made.sampling.min_p;
      answer.push_back(drawn);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Rows, DrawTest, testing::Values(1, 3, 31, 33, 1025, 5000, 100'001),
                         [](const auto& info) { return std::to_string(info.param); });

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

}  // namespace
}  // namespace quern::engine
