#include "base/log.h"

#include <atomic>
#include <cstdio>

namespace quern {
namespace {

std::atomic<LogLevel> lowest = LogLevel::info;

}  // namespace

void set_log_level(LogLevel level) { lowest = level; }

void log_message(LogLevel level, const std::string& text) {
  if (level < lowest.load()) return;
  const char* prefix = level == LogLevel::warning ? "warning: "
                       : level == LogLevel::error ? "error: "
                                                  : "";
  // One call, so that lines of several threads do not mix.
  std::string line = prefix + text + "\n";
  std::fwrite(line.data(), 1, line.size(), stderr);
}

}  // namespace quern
