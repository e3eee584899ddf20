// How many connections each client's address has.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>

namespace quern::http {

// Thread-safe.
class AddressCounts {
 public:
  // Counts a connection as long as it lives.
  class Place {
   public:
    Place() = default;
    Place(AddressCounts& counts, std::string address)
        : counts_(&counts), address_(std::move(address)) {}
    Place(Place&& other) noexcept
        : counts_(std::exchange(other.counts_, nullptr)), address_(std::move(other.address_)) {}
    Place& operator=(Place&& other) noexcept {
      std::swap(counts_, other.counts_);
      std::swap(address_, other.address_);
      return *this;
    }
    ~Place() {
      if (counts_) counts_->give_back(address_);
    }

   private:
    AddressCounts* counts_ = nullptr;
    std::string address_;
  };

  // None if the address has `most` connections already. most 0, or an empty address: no limit.
  std::optional<Place> take(const std::string& address, size_t most) {
    if (most == 0 || address.empty()) return Place();
    const std::lock_guard lock(mutex_);
    size_t& count = counts_[address];
    if (count >= most) return std::nullopt;
    ++count;
    return Place(*this, address);
  }

 private:
  void give_back(const std::string& address) {
    const std::lock_guard lock(mutex_);
    const auto found = counts_.find(address);
    if (--found->second == 0) counts_.erase(found);
  }

  std::mutex mutex_;
  std::unordered_map<std::string, size_t> counts_;
};

}  // namespace quern::http
