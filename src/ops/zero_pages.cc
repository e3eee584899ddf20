#include "ops/zero_pages.h"

#include <sys/mman.h>

#include <memory>

#include "base/error.h"

namespace quern::ops {

Tensor zero_pages(at::IntArrayRef shape, DType dtype) {
  size_t bytes = c10::elementSize(dtype);
  for (int64_t size : shape) bytes *= static_cast<size_t>(size);
  if (bytes == 0) return at::empty(shape, dtype);
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) fail(Exit::memory, "no memory for {} bytes of caches", bytes);
  ::madvise(memory, bytes, MADV_HUGEPAGE);
  return borrow(memory, shape, dtype,
                std::shared_ptr<void>(memory, [bytes](void* start) { ::munmap(start, bytes); }));
}

}  // namespace quern::ops
