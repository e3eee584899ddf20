#include "base/log.h"

#include <gtest/gtest.h>

#include <sstream>
#include <thread>
#include <vector>

namespace quern {
namespace {

TEST(Log, GoesToStandardErrorALineAtATime) {
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  log_info("{} of {}", 1, 2);
  log_warning("{{}} is {}", "odd");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "1 of 2\nwarning: {} is odd\n");
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "");
}

TEST(Log, LinesOfSeveralThreadsDoNotMix) {
  testing::internal::CaptureStderr();
  std::vector<std::thread> threads;
  for (char c : {'a', 'b', 'c'})
    threads.emplace_back([c] {
      for (int i = 0; i < 200; ++i) log_info("{}", std::string(100, c));
    });
  for (std::thread& thread : threads) thread.join();
  std::istringstream lines(testing::internal::GetCapturedStderr());
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count)
    EXPECT_EQ(line, std::string(100, line[0]));
  EXPECT_EQ(count, 600);
}

}  // namespace
}  // namespace quern
