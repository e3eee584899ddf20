// Memory from tensor/memory.h: it starts at a multiple of 64 bytes, and large pieces use huge
// pages, which save the kernels most of their address translation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace quern::ops {

class AlignedBytes {
 public:
  AlignedBytes() = default;
  // The bytes are uninitialized. Fails with Exit::memory.
  explicit AlignedBytes(size_t size);
  uint8_t* data() const { return data_; }

 private:
  std::shared_ptr<void> owner_;
  uint8_t* data_ = nullptr;
};

}  // namespace quern::ops
