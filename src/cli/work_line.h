// One line on standard error that says how far some work is, while a person looks.
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

  // A bar, `detail`, and the time that is left if it goes on at this rate. Nothing when standard
  // error is no terminal.
  void show(double part, const std::string& detail);
  void show(int64_t done, int64_t total);
  void clear();

 private:
  using Clock = std::chrono::steady_clock;

  std::string what_;
  Clock::time_point start_, shown_at_;
  bool shown_ = false;
};

// Seconds that are left when `part` of the work took `seconds`.
double seconds_left(double part, double seconds);

}  // namespace quern::cli
