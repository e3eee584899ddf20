#include "ops/aligned_bytes.h"

#include "tensor/memory.h"

namespace quern::ops {

AlignedBytes::AlignedBytes(size_t size) {
  auto bytes = allocate_bytes(size);
  data_ = bytes.get();
  owner_ = std::move(bytes);
}

}  // namespace quern::ops
