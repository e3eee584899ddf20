#include "base/threads.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>
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

// Callers from several threads take turns, and each gets all of its own items.
TEST(Threads, TwoCallersAtOnce) {
  set_threads(3);
  std::array<std::vector<int>, 2> runs = {std::vector<int>(64), std::vector<int>(64)};
  auto call = [&](std::vector<int>& of) {
    for (int round = 0; round < 500; ++round)
      parallel_for(std::ssize(of), [&](int64_t i) { ++of[static_cast<size_t>(i)]; });
  };
  std::thread other(call, std::ref(runs[1]));
  call(runs[0]);
  other.join();
  for (const auto& of : runs) EXPECT_EQ(std::ranges::count(of, 500), 64);
}

// Another caller does not see an exception of one caller.
TEST(Threads, ExceptionsStayWithTheirCaller) {
  set_threads(3);
  int caught = 0;
  std::thread other([&] {
    for (int round = 0; round < 300; ++round) {
      try {
        parallel_for(8, [](int64_t i) {
          if (i == 3) throw std::runtime_error("x");
        });
      } catch (const std::runtime_error&) {
        ++caught;
      }
    }
  });
  for (int round = 0; round < 300; ++round) EXPECT_NO_THROW(parallel_for(8, [](int64_t) {}));
  other.join();
  EXPECT_EQ(caught, 300);
}

// The call returns after the started items are done, because they still use its variables.
TEST(Threads, AThrowWaitsForTheItemsThatHaveBegun) {
  set_threads(4);
  for (int round = 0; round < 20; ++round) {
    std::atomic<int> begun = 0, done = 0;
    EXPECT_THROW(parallel_for(1000,
                              [&](int64_t) {
                                if (++begun == 3) throw std::runtime_error("x");
                                std::this_thread::sleep_for(std::chrono::milliseconds(2));
                                ++done;
                              }),
                 std::runtime_error);
    EXPECT_EQ(done, begun - 1);
    EXPECT_LT(begun, 1000) << "no new items begin after a throw";
  }
}

TEST(Threads, TheirNumberMayChangeUnderLoad) {
  set_threads(2);
  std::atomic<bool> stop = false;
  std::atomic<int64_t> calls = 0;
  std::thread load([&] {
    while (!stop) {
      std::atomic<int> items = 0;
      parallel_for(20, [&](int64_t) { ++items; });
      EXPECT_EQ(items, 20);
      ++calls;
    }
  });
  for (int round = 0; round < 200 || calls < 200; ++round) set_threads(1 + round % 4);
  stop = true;
  load.join();
  EXPECT_GE(threads(), 1);
  set_threads(2);
  EXPECT_EQ(threads(), 2);
}

}  // namespace
}  // namespace quern
