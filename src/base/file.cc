#include "base/file.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

#include "base/bus_error.h"
#include "base/error.h"

namespace quern {
namespace fs = std::filesystem;
namespace {

Descriptor open_input(const fs::path& file, int flags = 0) {
  Descriptor opened(::open(file.c_str(), flags | O_RDONLY | O_CLOEXEC));
  if (!opened.open()) fail("{}: cannot open: {}", file.string(), std::strerror(errno));
  return opened;
}

// A temporary file that is removed with the object unless it was renamed.
class Part {
 public:
  explicit Part(fs::path path) : path_(std::move(path)) {
    file_ = Descriptor(
        ::open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644));
    if (!file_.open()) fail_on_disk(errno, "create", path_.string());
  }
  ~Part() {
    if (!renamed_) ::unlink(path_.c_str());
  }
  Part(const Part&) = delete;
  Part& operator=(const Part&) = delete;

  void write(std::string_view text) {
    while (!text.empty()) {
      const ssize_t put = ::write(file_.get(), text.data(), text.size());
      if (put < 0 && errno == EINTR) continue;
      if (put < 0) fail_on_disk(errno, "write", path_.string());
      text.remove_prefix(static_cast<size_t>(put));
    }
    if (::fsync(file_.get()) != 0) fail_on_disk(errno, "sync", path_.string());
  }
  void become(const fs::path& file) {
    if (::rename(path_.c_str(), file.c_str()) != 0) fail_on_disk(errno, "write", file.string());
    renamed_ = true;
  }

 private:
  fs::path path_;
  Descriptor file_;
  bool renamed_ = false;
};

size_t size_of(int fd, const fs::path& file) {
  struct stat status{};
  if (::fstat(fd, &status) != 0) fail("{}: {}", file.string(), std::strerror(errno));
  if (!S_ISREG(status.st_mode)) fail("{}: not a regular file", file.string());
  return static_cast<size_t>(status.st_size);
}

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
    QUERN_CHECK(EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1);
  }
  void add(const void* data, size_t size) {
    QUERN_CHECK(EVP_DigestUpdate(context_.get(), data, size) == 1);
  }
  std::string hex() {
    std::array<unsigned char, 32> digest{};
    QUERN_CHECK(EVP_DigestFinal_ex(context_.get(), digest.data(), nullptr) == 1);
    std::string text;
    for (unsigned char byte : digest) text += fmt::format("{:02x}", byte);
    return text;
  }

 private:
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

}  // namespace

Descriptor::~Descriptor() {
  if (fd_ >= 0) ::close(fd_);
}

Descriptor::Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

std::string read_file(const fs::path& file, size_t limit) {
  const Descriptor fd = open_input(file);
  size_t size = size_of(fd.get(), file);
  if (size > limit) fail("{}: {} bytes exceed the limit of {}", file.string(), size, limit);
  std::string text(size, '\0');
  size_t done = 0;
  while (done < size) {
    ssize_t got = ::read(fd.get(), text.data() + done, size - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail("{}: cannot read: {}", file.string(), std::strerror(errno));
    if (got == 0) fail("{}: became shorter while it was read", file.string());
    done += static_cast<size_t>(got);
  }
  return text;
}

void write_file(const fs::path& file, std::string_view text) {
  Part part(file.string() + ".part");
  part.write(text);
  part.become(file);
}

void sync_folder(const fs::path& folder) {
  const Descriptor fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.open() || ::fsync(fd.get()) != 0) fail_on_disk(errno, "sync", folder.string());
}

void fail_on_disk(int error, const std::string& doing, const std::string& name) {
  const bool full = error == ENOSPC || error == EDQUOT || error == EFBIG;
  fail(Exit::disk, "{}: cannot {}: {}{}", name, doing, std::strerror(error),
       full ? "; free space, or choose an output folder on another disk" : "");
}

MappedFile::MappedFile(const fs::path& file) : MappedFile(open_input(file).get(), file) {}

MappedFile::MappedFile(int descriptor, const fs::path& file) : size_(size_of(descriptor, file)) {
  if (size_ == 0) return;
  void* address = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor, 0);
  if (address == MAP_FAILED)
    fail(Exit::memory, "{}: cannot map {} bytes: {}", file.string(), size_, std::strerror(errno));
  data_ = static_cast<const std::byte*>(address);
  watched_ = watch_mapping(data_, size_, file.string());
}

MappedFile::~MappedFile() {
  if (!data_) return;
  forget_mapping(watched_);
  ::munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::release(size_t offset, size_t size) const {
  const size_t page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  size_t begin = offset / page * page, end = std::min(offset + size, size_);
  if (begin < end) ::madvise(const_cast<std::byte*>(data_) + begin, end - begin, MADV_DONTNEED);
}

std::string sha256(std::string_view bytes) {
  Sha256 hash;
  hash.add(bytes.data(), bytes.size());
  return hash.hex();
}

std::string sha256_of_file(const fs::path& file) {
  const Descriptor fd = open_input(file);
  Sha256 hash;
  std::string buffer(1u << 20, '\0');
  for (;;) {
    ssize_t got = ::read(fd.get(), buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail("{}: cannot read: {}", file.string(), std::strerror(errno));
    if (got == 0) return hash.hex();
    hash.add(buffer.data(), static_cast<size_t>(got));
  }
}

}  // namespace quern
