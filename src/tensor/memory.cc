#include "tensor/memory.h"

#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>
#include <malloc.h>
#include <sys/mman.h>

#include <bit>
#include <mutex>
#include <unordered_map>

#include "base/error.h"

namespace quern {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#elif defined(__has_feature)
constexpr bool kSanitized = __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) ||
                            __has_feature(memory_sanitizer);
#else
constexpr bool kSanitized = false;
#endif

constexpr size_t kLarge = 1u << 20;
constexpr size_t kHugePage = 2u << 20;

struct Mapping {
  void* start;
  size_t bytes;
};

// Rounds sizes up to eighths of a power of two, so tensors of similar size can reuse each other's
// memory.
size_t mapping_bytes(size_t bytes) {
  const size_t step = std::bit_floor(bytes) / 8;
  return (bytes + step - 1) / step * step;
}

// Null if the system has no memory. `bytes` is a multiple of the page size.
void* map(size_t bytes) {
  const size_t alignment = bytes >= kHugePage ? kHugePage : 0;
  void* memory = ::mmap(nullptr, bytes + alignment, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  if (alignment == 0) return memory;
  auto* first = static_cast<uint8_t*>(memory);
  const size_t before = (alignment - reinterpret_cast<uintptr_t>(first) % alignment) % alignment;
  if (before > 0) ::munmap(first, before);
  ::munmap(first + before + bytes, alignment - before);
  ::madvise(first + before, bytes, MADV_HUGEPAGE);
  return first + before;
}

// The mappings of large pieces.
class Pieces {
 public:
  void* take(size_t wanted) {
    const size_t bytes = mapping_bytes(wanted);
    std::vector<Mapping> dropped;
    {
      const std::lock_guard lock(mutex_);
      if (void* kept = take_kept(bytes)) return kept;
      add_in_use(bytes);
      dropped = drop_beyond_peak();
    }
    unmap(dropped);
    void* start = map(bytes);
    if (!start) {
      release();
      start = map(bytes);
    }
    const std::lock_guard lock(mutex_);
    if (!start) {
      counts_.in_use -= static_cast<int64_t>(bytes);
      return nullptr;
    }
    ++counts_.mapped;
    used_[start] = bytes;
    return start;
  }

  // Returns whether `start` is the start of a piece; if so, keeps the piece for reuse.
  bool give_back(void* start) {
    const std::lock_guard lock(mutex_);
    const auto found = used_.find(start);
    if (found == used_.end()) return false;
    const auto bytes = static_cast<int64_t>(found->second);
    kept_.push_back({start, found->second});
    used_.erase(found);
    counts_.in_use -= bytes;
    counts_.kept += bytes;
    return true;
  }

  void release() {
    std::vector<Mapping> dropped;
    {
      const std::lock_guard lock(mutex_);
      dropped.swap(kept_);
      counts_.kept = 0;
      peak_ = counts_.in_use;
    }
    unmap(dropped);
  }

  MemoryCounts counts() {
    const std::lock_guard lock(mutex_);
    return counts_;
  }

 private:
  // The smallest kept mapping that is large enough and at most a quarter too large.
  void* take_kept(size_t bytes) {
    auto best = kept_.end();
    for (auto it = kept_.begin(); it != kept_.end(); ++it) {
      const bool fits = it->bytes >= bytes && it->bytes <= bytes + bytes / 4;
      if (fits && (best == kept_.end() || it->bytes < best->bytes)) best = it;
    }
    if (best == kept_.end()) return nullptr;
    const Mapping found = *best;
    kept_.erase(best);
    counts_.kept -= static_cast<int64_t>(found.bytes);
    add_in_use(found.bytes);
    ++counts_.reused;
    used_[found.start] = found.bytes;
    return found.start;
  }

  void add_in_use(size_t bytes) {
    counts_.in_use += static_cast<int64_t>(bytes);
    peak_ = std::max(peak_, counts_.in_use);
  }

  // Removes kept mappings, the oldest first, until the bound holds again, and returns them.
  std::vector<Mapping> drop_beyond_peak() {
    auto end = kept_.begin();
    while (end != kept_.end() && counts_.in_use + counts_.kept > peak_)
      counts_.kept -= static_cast<int64_t>((end++)->bytes);
    std::vector<Mapping> dropped(kept_.begin(), end);
    kept_.erase(kept_.begin(), end);
    return dropped;
  }

  static void unmap(const std::vector<Mapping>& mappings) {
    for (const Mapping& mapping : mappings) ::munmap(mapping.start, mapping.bytes);
  }

  std::mutex mutex_;
  std::vector<Mapping> kept_;  // in the order in which they were returned
  std::unordered_map<void*, size_t> used_;
  MemoryCounts counts_;
  int64_t peak_ = 0;  // of in_use, since the last release
};

// Never destroyed, because tensors of static storage may outlive it.
Pieces& pieces() {
  static auto& instance = *new Pieces;
  return instance;
}

void free_large(void* start) { pieces().give_back(start); }

void free_any(void* start) {
  if (!pieces().give_back(start)) c10::free_cpu(start);
}

class OwnMemory : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes < kLarge) {
      void* start = c10::alloc_cpu(bytes);
      return {start, start, &c10::free_cpu, c10::DeviceType::CPU};
    }
    void* start = pieces().take(bytes);
    if (!start) fail(Exit::memory, "out of memory: the system refused {} bytes", bytes);
    return {start, start, &free_large, c10::DeviceType::CPU};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_any; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};

}  // namespace

void use_own_memory() {
  if (kSanitized) return;
  static auto& memory = *new OwnMemory;
  static const bool once = [] {
    c10::SetCPUAllocator(&memory);
    return true;
  }();
  QUERN_CHECK(once && c10::GetCPUAllocator() == &memory);
}

MemoryCounts memory_counts() { return pieces().counts(); }

void release_memory() {
  pieces().release();
  ::malloc_trim(0);
}

std::shared_ptr<uint8_t> allocate_bytes(size_t bytes) {
  auto data = std::make_shared<c10::DataPtr>(c10::GetCPUAllocator()->allocate(bytes));
  return {data, static_cast<uint8_t*>(data->get())};
}

Tensor zero_pages(at::IntArrayRef shape, DType dtype) {
  size_t bytes = c10::elementSize(dtype);
  for (int64_t size : shape) bytes *= static_cast<size_t>(size);
  if (bytes == 0) return at::empty(shape, dtype);
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED)
    fail(Exit::memory, "out of memory: the system refused {} bytes for caches", bytes);
  ::madvise(memory, bytes, MADV_HUGEPAGE);
  return borrow(memory, shape, dtype,
                std::shared_ptr<void>(memory, [bytes](void* start) { ::munmap(start, bytes); }));
}

}  // namespace quern
