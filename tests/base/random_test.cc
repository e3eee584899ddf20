// The expected numbers were printed by NumPy 2.4.6 and CPython 3.11.
#include "base/random.h"

#include <gtest/gtest.h>

#include <numeric>

namespace quern {
namespace {

using Order = std::vector<int64_t>;

// Depends on every place: sum of place times value.
int64_t checksum(const Order& order) {
  int64_t sum = 0;
  for (size_t i = 0; i < order.size(); ++i) sum += static_cast<int64_t>(i) * order[i];
  return sum;
}

TEST(NumpyRandom, BitsEqualDefaultRng) {
  NumpyRandom random(42);
  for (uint64_t bits : {0xc621fbcd16d92688u, 0x705a5661a791ffc1u, 0xdbcd12c26eda1624u,
                        0xb286b60e1600888du, 0x181c01b5339381ebu}) {
    EXPECT_EQ(random.next(), bits);
  }
}

TEST(NumpyRandom, PermutationEqualsDefaultRng) {
  EXPECT_EQ(NumpyRandom(42).permutation(0), Order{});
  EXPECT_EQ(NumpyRandom(42).permutation(1), Order{0});
  EXPECT_EQ(NumpyRandom(42).permutation(10), (Order{5, 6, 0, 7, 3, 2, 4, 9, 1, 8}));
  EXPECT_EQ(NumpyRandom(42).permutation(16),
            (Order{6, 15, 11, 10, 9, 3, 0, 7, 12, 5, 2, 4, 14, 1, 13, 8}));
  EXPECT_EQ(checksum(NumpyRandom(42).permutation(70'000)), 85'611'209'495'057);
  EXPECT_EQ(NumpyRandom((uint64_t{1} << 40) + 5).permutation(12),
            (Order{9, 5, 1, 2, 8, 3, 0, 10, 7, 4, 6, 11}));
}

TEST(NumpyRandom, SecondPermutationContinuesTheStream) {
  NumpyRandom random(7);
  EXPECT_EQ(checksum(random.permutation(1000)), 249'031'891);
  EXPECT_EQ(random.permutation(5), (Order{4, 2, 0, 3, 1}));
}

TEST(PythonRandom, BitsEqualGetrandbits) {
  PythonRandom random(42);
  for (uint32_t bits : {2746317213u, 478163327u, 107420369u, 3184935163u, 1181241943u}) {
    EXPECT_EQ(random.next(), bits);
  }
  EXPECT_EQ(PythonRandom(0).next(), 3626764237u);
  EXPECT_EQ(PythonRandom((uint64_t{1} << 40) + 5).next(), 2166296868u);
}

TEST(PythonRandom, ShuffleEqualsRandomShuffle) {
  PythonRandom random(42);
  Order items(10);
  std::iota(items.begin(), items.end(), 0);
  random.shuffle(items);
  EXPECT_EQ(items, (Order{7, 3, 2, 8, 5, 6, 9, 4, 0, 1}));
  random.shuffle(items);
  EXPECT_EQ(items, (Order{8, 6, 2, 5, 3, 0, 4, 7, 9, 1}));

  Order many(256);
  std::iota(many.begin(), many.end(), 0);
  PythonRandom(42).shuffle(many);
  EXPECT_EQ(checksum(many), 4'156'387);
}

}  // namespace
}  // namespace quern
