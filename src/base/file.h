// Files: reads small files whole, maps large ones, and writes them atomically.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace quern {

// An open file descriptor.
class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  ~Descriptor();
  Descriptor(Descriptor&& other) noexcept;
  Descriptor& operator=(Descriptor&& other) noexcept;

  int get() const { return fd_; }
  bool open() const { return fd_ >= 0; }

 private:
  int fd_;
};

// Fails when the file is missing or longer than `limit` bytes.
std::string read_file(const std::filesystem::path& file, size_t limit = 256u << 20);

// Writes to a temporary name in the same folder, syncs, renames. Fails with Exit::disk, and leaves
// nothing behind, if it cannot be written.
void write_file(const std::filesystem::path& file, std::string_view text);

// Makes a rename or a new file in `folder` durable.
void sync_folder(const std::filesystem::path& folder);

// Fails with Exit::disk and the meaning of `error` (an errno) for writing `name`.
[[noreturn]] void fail_on_disk(int error, const std::string& doing, const std::string& name);

// A file mapped read-only for the lifetime of the object. If the file is truncated and the missing
// bytes are read, the program ends with a message and Exit::invalid_input.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& file);
  // Maps an open file, for callers that must control how it is opened; `file` is for messages only.
  // The caller keeps the descriptor.
  MappedFile(int descriptor, const std::filesystem::path& file);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  // Tells the kernel that the pages with these bytes are not needed for now; they are read again
  // when touched.
  void release(size_t offset, size_t size) const;

 private:
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  int watched_ = -1;  // see bus_error.h
};

// Hexadecimal SHA-256.
std::string sha256(std::string_view bytes);
std::string sha256_of_file(const std::filesystem::path& file);

}  // namespace quern
