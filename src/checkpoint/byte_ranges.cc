#include "checkpoint/byte_ranges.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "base/file.h"

namespace quern::checkpoint {
namespace {

constexpr size_t kPiece = 1 << 20;

// Reads exactly `piece.size()` bytes at `offset` of the range.
void read_piece(const ByteRange& from, size_t offset, std::span<std::byte> piece) {
  size_t done = 0;
  while (done < piece.size()) {
    ssize_t got = ::pread(from.descriptor, piece.data() + done, piece.size() - done,
                          static_cast<off_t>(from.offset + offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail_on_disk(errno, "read", from.name);
    if (got == 0) fail("{}: became shorter while it was read", from.name);
    done += static_cast<size_t>(got);
  }
}

}  // namespace

void write_range(const ByteRange& to, std::span<const std::byte> bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    ssize_t put = ::pwrite(to.descriptor, bytes.data() + done, bytes.size() - done,
                           static_cast<off_t>(to.offset + done));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) fail_on_disk(errno, "write", to.name);
    done += static_cast<size_t>(put);
  }
}

void copy_range(const ByteRange& from, const ByteRange& to, size_t bytes) {
  size_t done = 0;
  while (done < bytes) {
    auto in = static_cast<off64_t>(from.offset + done),
         out = static_cast<off64_t>(to.offset + done);
    ssize_t copied = ::copy_file_range(from.descriptor, &in, to.descriptor, &out, bytes - done, 0);
    if (copied < 0 && errno == EINTR) continue;
    if (copied <= 0) break;  // not supported between these filesystems: copy through a buffer
    done += static_cast<size_t>(copied);
  }
  std::vector<std::byte> buffer(std::min(kPiece, bytes - done));
  while (done < bytes) {
    std::span<std::byte> piece(buffer.data(), std::min(kPiece, bytes - done));
    read_piece(from, done, piece);
    write_range({to.descriptor, to.offset + done, to.name}, piece);
    done += piece.size();
  }
}

bool equal_ranges(const ByteRange& a, const ByteRange& b, size_t bytes) {
  std::vector<std::byte> left(std::min(kPiece, bytes)), right(left.size());
  for (size_t done = 0; done < bytes; done += left.size()) {
    const size_t size = std::min(left.size(), bytes - done);
    read_piece(a, done, {left.data(), size});
    read_piece(b, done, {right.data(), size});
    if (std::memcmp(left.data(), right.data(), size) != 0) return false;
  }
  return true;
}

}  // namespace quern::checkpoint
