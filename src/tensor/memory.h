// Memory of tensors. A piece of 1 MB or more is a mapping of its own, on huge pages from 2 MB on,
// and stays mapped for the next tensor when its tensor ends: a page of 4 KB that comes from the
// system anew costs about 3 us, and one iteration of AutoRound touches hundreds of thousands of
// them. Smaller pieces are malloc's.
#pragma once

#include "tensor/tensor.h"

namespace quern {

// Makes every tensor on the CPU take its memory from here. prepare_torch() calls it. Programs with
// sanitizers keep LibTorch's own allocator, so that a use after the end of a tensor is found.
void use_own_memory();

// Large pieces, in bytes of their mappings. in_use + kept never exceeds the largest in_use since
// the last release_memory(): keeping memory raises no peak.
struct MemoryCounts {
  int64_t in_use = 0;  // by tensors
  int64_t kept = 0;    // for the next ones
  int64_t mapped = 0;  // pieces that came from the system, since the program began
  int64_t reused = 0;  // pieces that were kept ones, since the program began
};
MemoryCounts memory_counts();

// Gives everything that no tensor uses back to the system, what malloc keeps as well.
void release_memory();

// Memory from the same place, on a 64-byte line and not zeroed. Fails with Exit::memory when the
// system refuses.
std::shared_ptr<uint8_t> allocate_bytes(size_t bytes);

// Zeros that cost nothing until they are touched: pages come from the system when they are first
// written, huge ones if it has them. Fails with Exit::memory when the system refuses.
Tensor zero_pages(at::IntArrayRef shape, DType dtype);

}  // namespace quern
