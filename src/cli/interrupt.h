// Ctrl-C and SIGTERM. A thread of its own waits for them, so that cleaning up may do anything. They
// end the program at once, unless the work at hand asked to be told and to finish first; the second
// one always does.
#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <string>

namespace quern::cli {

// To be called first of all: threads that exist already would still be interrupted.
void watch_interrupts();

// While it lives, the first interrupt sets asked(), says `message` on standard error and calls
// `tell`, on a thread of its own.
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

// While it lives, an interrupt that ends the program removes the folder.
class RemovedOnInterrupt {
 public:
  explicit RemovedOnInterrupt(const std::filesystem::path& folder);
  ~RemovedOnInterrupt();
  RemovedOnInterrupt(const RemovedOnInterrupt&) = delete;
  RemovedOnInterrupt& operator=(const RemovedOnInterrupt&) = delete;
};

}  // namespace quern::cli
