#include "base/bus_error.h"

#include <signal.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>

#include "base/error.h"

namespace quern {
namespace {

struct Mapping {
  std::atomic<bool> taken = false;
  std::atomic<uintptr_t> begin = 0;  // 0: unused entry
  size_t size = 0;
  std::array<char, 512> file{};  // its last characters, zero-terminated
};

std::array<Mapping, 1024> mappings;  // a fixed table, because a signal handler may not allocate
struct sigaction before;

void write_text(const char* text) {
  const ssize_t ignored = ::write(STDERR_FILENO, text, std::strlen(text));
  (void)ignored;
}

void end_with_name(int, siginfo_t* info, void*) {
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  for (const Mapping& mapping : mappings) {
    const uintptr_t begin = mapping.begin;
    if (begin == 0 || address < begin || address - begin >= mapping.size) continue;
    write_text("error: ");
    write_text(mapping.file.data());
    write_text(": became shorter while it was read, or its disk is broken\n");
    ::_exit(static_cast<int>(Exit::invalid_input));
  }
  // Not a watched range: restore the previous handler. The instruction then runs again and reaches
  // it; a signal that was sent must be sent again.
  ::sigaction(SIGBUS, &before, nullptr);
  if (info->si_code <= 0) ::raise(SIGBUS);
}

bool install() {
  struct sigaction action{};
  action.sa_sigaction = end_with_name;
  action.sa_flags = SA_SIGINFO;
  return ::sigaction(SIGBUS, &action, &before) == 0;
}

}  // namespace

int watch_mapping(const void* begin, size_t size, const std::string& file) {
  static const bool installed = install();
  if (!installed) return -1;
  for (size_t i = 0; i < mappings.size(); ++i) {
    Mapping& mapping = mappings[i];
    if (mapping.taken.exchange(true)) continue;
    const size_t most = mapping.file.size() - 1;
    const std::string name = file.size() > most ? file.substr(file.size() - most) : file;
    std::memcpy(mapping.file.data(), name.c_str(), name.size() + 1);
    mapping.size = size;
    mapping.begin = reinterpret_cast<uintptr_t>(begin);
    return static_cast<int>(i);
  }
  return -1;
}

void forget_mapping(int number) {
  if (number < 0) return;
  Mapping& mapping = mappings[static_cast<size_t>(number)];
  mapping.begin = 0;
  mapping.taken = false;
}

}  // namespace quern
