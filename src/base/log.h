// Messages for people, on standard error. Results of a command go to standard output instead.
#pragma once

#include <fmt/format.h>

#include <string>
#include <utility>

namespace quern {

enum class LogLevel { info, warning };

void log_message(LogLevel level, const std::string& text);

template <class... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  log_message(LogLevel::info, fmt::format(format, std::forward<Args>(args)...));
}

template <class... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... args) {
  log_message(LogLevel::warning, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace quern
