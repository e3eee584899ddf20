// One progress line on standard error, if it is a terminal.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace quern::cli {

class WorkLine {
 public:
  explicit WorkLine(std::string what);
  ~WorkLine() { clear(); }
  WorkLine(const WorkLine&) = delete;
  WorkLine& operator=(const WorkLine&) = delete;

  // Shows a bar, `detail`, and the remaining time at the current rate. Shows nothing if standard
  // error is not a terminal.
  void show(double part, const std::string& detail);
  void show(int64_t done, int64_t total);
  void clear();

 private:
  using Clock = std::chrono::steady_clock;

  std::string what_;
  Clock::time_point start_, shown_at_;
  bool shown_ = false;
};

// The remaining seconds if `part` of the work took `seconds`.
double seconds_left(double part, double seconds);

}  // namespace quern::cli
