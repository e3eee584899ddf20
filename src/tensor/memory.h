// Memory of tensors. A piece of 1 MB or more is a separate mapping, with huge pages from 2 MB on,
// and stays mapped for the next tensor: a new 4 KB page from the system costs about 3 us, and one
// iteration of AutoRound touches hundreds of thousands of pages. Smaller pieces come from malloc.
#pragma once

#include "tensor/tensor.h"

namespace quern {

// Makes every tensor on the CPU use this memory. prepare_torch() calls it. Programs with sanitizers
// keep LibTorch's allocator, to detect uses after free.
void use_own_memory();

// Bytes in mappings of large pieces. in_use + kept never exceeds the largest in_use since the last
// release_memory(), so kept memory does not raise the peak.
struct MemoryCounts {
  int64_t in_use = 0;  // by tensors
  int64_t kept = 0;    // for the next ones
  int64_t mapped = 0;  // pieces obtained from the system since the program began
  int64_t reused = 0;  // pieces reused since the program began
};
MemoryCounts memory_counts();

// Returns all unused memory to the system, including malloc's.
void release_memory();

// Memory from the same pool, aligned to 64 bytes and uninitialized. Fails with Exit::memory if the
// system has none.
std::shared_ptr<uint8_t> allocate_bytes(size_t bytes);

// Zeros that use no memory until they are touched: the system provides pages at the first write,
// huge ones if available. Fails with Exit::memory if the system has none.
Tensor zero_pages(at::IntArrayRef shape, DType dtype);

}  // namespace quern
