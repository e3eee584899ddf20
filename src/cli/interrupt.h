// Ctrl-C, SIGTERM and SIGHUP. A separate thread waits for them, so the clean-up may call any
// function. The first signal ends the program at once, unless the current work asked to finish
// first (FinishFirst); the second signal always does.
#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <string>

namespace quern::cli {

// Call before any other thread starts: existing threads would still receive the signals.
void watch_interrupts();

// During its lifetime, the first interrupt sets asked(), prints `message` on standard error and
// calls `tell` on the signal thread.
class FinishFirst {
 public:
  explicit FinishFirst(const std::string& message, std::function<void()> tell = {});
  ~FinishFirst();
  FinishFirst(const FinishFirst&) = delete;
  FinishFirst& operator=(const FinishFirst&) = delete;

  const std::atomic<bool>& asked() const { return asked_; }

 private:
  friend void watch_interrupts();
  std::string message_;
  std::function<void()> tell_;
  std::atomic<bool> asked_{false};
};

// During its lifetime, SIGHUP calls `reload` on the signal thread; otherwise it is an interrupt.
class OnHangup {
 public:
  explicit OnHangup(std::function<void()> reload);
  ~OnHangup();
  OnHangup(const OnHangup&) = delete;
  OnHangup& operator=(const OnHangup&) = delete;
};

// During its lifetime, an interrupt that ends the program removes the folder.
class RemovedOnInterrupt {
 public:
  explicit RemovedOnInterrupt(const std::filesystem::path& folder);
  ~RemovedOnInterrupt();
  RemovedOnInterrupt(const RemovedOnInterrupt&) = delete;
  RemovedOnInterrupt& operator=(const RemovedOnInterrupt&) = delete;
};

}  // namespace quern::cli
