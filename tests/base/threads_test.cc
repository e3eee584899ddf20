#include "base/threads.h"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <vector>

namespace quern {
namespace {

TEST(Threads, EachItemRunsOnceAndNestingWorks) {
  for (int count : {1, 2, 5}) {
    set_threads(count);
    std::vector<std::atomic<int>> runs(1000);
    parallel_for(100, [&](int64_t i) { parallel_for(10, [&](int64_t j) { ++runs[i * 10 + j]; }); });
    for (auto& run : runs) EXPECT_EQ(run, 1);
  }
}

TEST(Threads, ExceptionsReachTheCallerAndThePoolLives) {
  set_threads(3);
  EXPECT_THROW(parallel_for(50,
                            [](int64_t i) {
                              if (i == 7) throw std::runtime_error("x");
                            }),
               std::runtime_error);
  std::atomic<int> sum = 0;
  parallel_pieces(10, 3, [&](int64_t begin, int64_t end) { sum += static_cast<int>(end - begin); });
  EXPECT_EQ(sum, 10);
}

}  // namespace
}  // namespace quern
