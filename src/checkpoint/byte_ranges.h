// Moves ranges of bytes between open files without mapping them, so they do not count as this
// process's memory.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace quern::checkpoint {

// A range of an open file; `name` is for messages.
struct ByteRange {
  int descriptor;
  size_t offset;
  std::string name;
};

// All three fail with Exit::disk if the disk is full or broken.
void write_range(const ByteRange& to, std::span<const std::byte> bytes);
void copy_range(const ByteRange& from, const ByteRange& to, size_t bytes);
bool equal_ranges(const ByteRange& a, const ByteRange& b, size_t bytes);

}  // namespace quern::checkpoint
