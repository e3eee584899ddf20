// Bytes that the requests of all clients may take together. What a request takes is given back when
// it goes, whatever its end.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <utility>

namespace quern::http {

class Budget {
 public:
  explicit Budget(size_t bytes) : bytes_(bytes) {}

  // False, and nothing is taken, when there is too little left.
  bool take(size_t bytes) {
    size_t used = used_;
    do {
      if (bytes > bytes_ - used) return false;
    } while (!used_.compare_exchange_weak(used, used + bytes));
    return true;
  }
  void give(size_t bytes) { used_ -= bytes; }
  size_t used() const { return used_; }

 private:
  const size_t bytes_;
  std::atomic<size_t> used_{0};
};

// What one request has taken. One thread at a time uses it.
class Charge {
 public:
  Charge() = default;
  explicit Charge(std::shared_ptr<Budget> budget) : budget_(std::move(budget)) {}
  Charge(Charge&& other) noexcept
      : budget_(std::move(other.budget_)), bytes_(std::exchange(other.bytes_, 0)) {}
  Charge& operator=(Charge&& other) noexcept {
    release();
    budget_ = std::move(other.budget_);
    bytes_ = std::exchange(other.bytes_, 0);
    return *this;
  }
  ~Charge() { release(); }

  // False when the budget has too little left.
  bool add(size_t bytes) {
    if (!budget_) return true;
    if (!budget_->take(bytes)) return false;
    bytes_ += bytes;
    return true;
  }
  void release() {
    if (budget_) budget_->give(std::exchange(bytes_, 0));
  }

 private:
  std::shared_ptr<Budget> budget_;
  size_t bytes_ = 0;
};

}  // namespace quern::http
