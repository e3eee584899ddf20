#include "engine/noise.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <vector>

namespace quern::engine {
namespace {

// The known answers of Random123's kat_vectors.
TEST(NoiseTest, PhiloxEqualsItsAuthors) {
  EXPECT_EQ(philox({0, 0, 0, 0}, {0, 0}),
            (PhiloxBlock{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}),
            (PhiloxBlock{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (PhiloxBlock{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(NoiseTest, IsExponential) {
  const Noise noise(7, 0);
  double sum = 0, squares = 0;
  constexpr int kDraws = 40000;
  for (int i = 0; i < kDraws; ++i) {
    const double q = noise.exponential(i / 200, i % 200);
    ASSERT_GT(q, 0);
    sum += q;
    squares += q * q;
  }
  // Mean 1 and mean square 2; five standard deviations of 40000 draws.
  EXPECT_NEAR(sum / kDraws, 1, 0.025);
  EXPECT_NEAR(squares / kDraws, 2, 0.11);
}

TEST(NoiseTest, DependsOnSeedLanePlaceAndToken) {
  const double q = Noise(7, 0).exponential(3, 5);
  EXPECT_EQ(q, Noise(7, 0).exponential(3, 5));
  EXPECT_NE(q, Noise(8, 0).exponential(3, 5));
  EXPECT_NE(q, Noise(7 + (uint64_t{1} << 32), 0).exponential(3, 5));
  EXPECT_NE(q, Noise(7, 1).exponential(3, 5));
  EXPECT_NE(q, Noise(7, 0).exponential(4, 5));
  EXPECT_NE(q, Noise(7, 0).exponential(3, 4));
  EXPECT_NE(q, Noise(7, 0).exponential(3, 9));
}

TEST(NoiseTest, WordsInBulkAreTheSameNumbers) {
  const Noise noise(9, 2);
  for (int64_t position : {int64_t{0}, int64_t{77}, int64_t{1} << 40})
    for (uint32_t stretch : {0u, 5u, 8191u}) {
      const Noise::Words words = noise.words(position, stretch);
      for (size_t i = 0; i < words.size(); ++i)
        ASSERT_EQ(Noise::exponential_of(words[i]),
                  noise.exponential(position, static_cast<int32_t>(stretch * 32 + i)));
    }
}

TEST(NoiseTest, EveryRequestOfAnEngineHasItsOwnSeed) {
  EXPECT_EQ(seed_of_request(5, 9), seed_of_request(5, 9));
  std::set<uint64_t> seeds;
  for (uint64_t engine : {0, 1})
    for (uint64_t request = 0; request < 1000; ++request)
      seeds.insert(seed_of_request(engine, request));
  EXPECT_EQ(seeds.size(), 2000u);
}

}  // namespace
}  // namespace quern::engine
