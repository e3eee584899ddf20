// Two kinds of failure. fail() reports what a user can fix: it states what, where, why and how to
// fix it, and carries the exit code of the program. QUERN_CHECK detects bugs of this program.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace quern {

// Exit codes of the program, listed in docs/cli.md.
enum class Exit {
  ok = 0,
  internal = 1,
  usage = 2,
  infeasible = 3,
  invalid_input = 4,
  verification_failed = 5,
  interrupted = 6,
  disk = 7,
  memory = 8,
  device = 9,
};

class Error : public std::runtime_error {
 public:
  Error(Exit code, const std::string& message) : std::runtime_error(message), code_(code) {}

  Exit code() const { return code_; }

 private:
  Exit code_;
};

template <class... Args>
[[noreturn]] void fail(Exit code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}

// The most common case: invalid input (a file, a recipe, a tensor).
template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(Exit::invalid_input, fmt::format(format, std::forward<Args>(args)...));
}

namespace detail {
[[noreturn]] void check_failed(const char* condition, const char* file, int line);
}  // namespace detail

}  // namespace quern

#define QUERN_CHECK(condition) \
  ((condition) ? void() : ::quern::detail::check_failed(#condition, __FILE__, __LINE__))
