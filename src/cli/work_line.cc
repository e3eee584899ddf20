#include "cli/work_line.h"

#include <algorithm>
#include <cstdio>

#include "base/error.h"
#include "cli/terminal.h"

namespace quern::cli {
namespace {

constexpr std::chrono::milliseconds kRefresh{100};

void put(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

}  // namespace

WorkLine::WorkLine(std::string what) : what_(std::move(what)), start_(Clock::now()) {}

void WorkLine::show(double part, const std::string& detail) {
  const Terminal& terminal = standard_error();
  const auto now = Clock::now();
  if (!terminal.interactive() || (shown_ && now - shown_at_ < kRefresh)) return;
  shown_at_ = now;
  shown_ = true;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  std::string text = fmt::format("{} {} {}", what_, progress_bar(part, 24), detail);
  if (part > 0) text += fmt::format("  {} left", time_text(seconds_left(part, seconds)));
  text.resize(std::min(text.size(), static_cast<size_t>(std::max(terminal.columns() - 1, 1))));
  put("\r\x1b[2K" + text);
}

void WorkLine::show(int64_t done, int64_t total) {
  if (total > 0)
    show(static_cast<double>(done) / static_cast<double>(total), fmt::format("{}/{}", done, total));
}

void WorkLine::clear() {
  if (shown_) put("\r\x1b[2K");
  shown_ = false;
}

double seconds_left(double part, double seconds) { return part > 0 ? seconds / part - seconds : 0; }

}  // namespace quern::cli
