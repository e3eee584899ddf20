#include "ops/aligned_bytes.h"

#include <sys/mman.h>

#include <cstdlib>

#include "base/error.h"

namespace quern::ops {
namespace {

constexpr size_t kLine = 64;
constexpr size_t kHugePage = 2u << 20;

}  // namespace

AlignedBytes::AlignedBytes(size_t size) {
  const bool large = size >= kHugePage;
  const size_t alignment = large ? kHugePage : kLine, room = size + alignment;
  void* memory =
      large ? ::mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
            : std::malloc(room);
  if (!memory || memory == MAP_FAILED)
    fail(Exit::memory, "no memory for {} bytes of packed weights", size);
  owner_ = std::shared_ptr<void>(memory, [large, room](void* start) {
    large ? void(::munmap(start, room)) : std::free(start);
  });
  const auto address = reinterpret_cast<uintptr_t>(memory);
  data_ = reinterpret_cast<uint8_t*>((address + alignment - 1) / alignment * alignment);
  if (large) ::madvise(data_, size, MADV_HUGEPAGE);
}

}  // namespace quern::ops
