#include "base/log.h"

#include <cstdio>

namespace quern {

void log_message(LogLevel level, const std::string& text) {
  const char* prefix = level == LogLevel::warning ? "warning: " : "";
  // One call, to keep lines of several threads apart.
  std::string line = prefix + text + "\n";
  std::fwrite(line.data(), 1, line.size(), stderr);
}

}  // namespace quern
