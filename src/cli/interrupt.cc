#include "cli/interrupt.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <mutex>
#include <optional>
#include <thread>

#include "base/error.h"
#include "base/log.h"

namespace quern::cli {
namespace {

std::mutex mutex;  // guards the variables below
std::function<void()> reload_on_hangup;
FinishFirst* finishing = nullptr;
std::optional<std::filesystem::path> to_remove;

[[noreturn]] void end_at_once() {
  if (to_remove) {
    // Other threads may still be writing into the folder; a second round removes what they add
    // after the first.
    std::error_code ignored;
    for (int round = 0; round < 2; ++round) std::filesystem::remove_all(*to_remove, ignored);
  }
  ::_exit(static_cast<int>(Exit::interrupted));
}

sigset_t interrupts() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGHUP);
  return set;
}

}  // namespace

void watch_interrupts() {
  const sigset_t set = interrupts();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::thread([set] {
    for (;;) {
      int signal = 0;
      if (sigwait(&set, &signal) != 0) continue;
      const std::lock_guard lock(mutex);
      if (signal == SIGHUP && reload_on_hangup) {
        reload_on_hangup();
        continue;
      }
      if (!finishing || finishing->asked_) end_at_once();
      finishing->asked_ = true;
      log_message(LogLevel::info, finishing->message_);
      if (finishing->tell_) finishing->tell_();
    }
  }).detach();
}

FinishFirst::FinishFirst(const std::string& message, std::function<void()> tell)
    : message_(message), tell_(std::move(tell)) {
  const std::lock_guard lock(mutex);
  QUERN_CHECK(!finishing);
  finishing = this;
}

FinishFirst::~FinishFirst() {
  const std::lock_guard lock(mutex);
  finishing = nullptr;
}

OnHangup::OnHangup(std::function<void()> reload) {
  const std::lock_guard lock(mutex);
  reload_on_hangup = std::move(reload);
}

OnHangup::~OnHangup() {
  const std::lock_guard lock(mutex);
  reload_on_hangup = nullptr;
}

RemovedOnInterrupt::RemovedOnInterrupt(const std::filesystem::path& folder) {
  const std::lock_guard lock(mutex);
  to_remove = folder;
}

RemovedOnInterrupt::~RemovedOnInterrupt() {
  const std::lock_guard lock(mutex);
  to_remove.reset();
}

}  // namespace quern::cli
