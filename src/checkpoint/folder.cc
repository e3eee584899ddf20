#include "checkpoint/folder.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "checkpoint/header.h"

namespace quern::checkpoint {
namespace fs = std::filesystem;
namespace {

int open_folder(const fs::path& path) {
  return ::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
}

// For kernels without openat2 (before 5.6) and sandboxes that forbid it. A link could be swapped
// between the check and the open; openat2 has no such gap.
int open_checked(const fs::path& root, const fs::path& name) {
  std::error_code error;
  fs::path target = fs::canonical(root / name, error);
  if (error) return errno = error.value(), -1;
  if (!is_beneath(target, root)) return errno = EXDEV, -1;
  return ::open(target.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
}

// O_NONBLOCK, because opening a planted pipe would otherwise wait for a writer.
int open_beneath(int root, const fs::path& root_path, const fs::path& name, uint64_t extra = 0) {
  struct open_how how{};
  how.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | extra;
  long fd = ::syscall(SYS_openat2, root, name.c_str(), &how, sizeof(how));
  if (fd < 0 && (errno == ENOSYS || errno == EPERM)) return open_checked(root_path, name);
  return static_cast<int>(fd);
}

}  // namespace

Folder::Folder(fs::path path) : path_(std::move(path)), root_(open_folder(path_)) {
  if (!root_.open()) fail("{}: cannot open the folder: {}", path_.string(), std::strerror(errno));
  canonical_ = fs::canonical(path_);
  if (canonical_.parent_path().filename() != "snapshots") return;
  blobs_path_ = canonical_.parent_path().parent_path() / "blobs";
  blobs_ = Descriptor(open_folder(blobs_path_));
}

Descriptor Folder::open(const fs::path& name) const {
  Descriptor file(open_beneath(root_.get(), canonical_, name));
  if (!file.open() && errno == EXDEV && blobs_.open()) file = open_blob(name);
  if (file.open()) return file;
  const std::string where = (path_ / name).string();
  if (errno == EXDEV)
    fail("{}: the link leads out of the model's folder, so it is not read; copy the file there",
         where);
  fail("{}: cannot open: {}", where, std::strerror(errno));
}

// Reads the link without following it: its target must be a regular file directly in blobs/.
Descriptor Folder::open_blob(const fs::path& name) const {
  std::error_code error;
  fs::path link = fs::read_symlink(canonical_ / name, error);
  fs::path target = ((canonical_ / name).parent_path() / link).lexically_normal();
  if (error || target.parent_path() != blobs_path_) return errno = EXDEV, Descriptor();
  return Descriptor(
      open_beneath(blobs_.get(), blobs_path_, target.filename(), RESOLVE_NO_SYMLINKS));
}

bool Folder::has(const fs::path& name) const {
  std::error_code error;
  return fs::symlink_status(path_ / name, error).type() != fs::file_type::not_found && !error;
}

std::vector<fs::path> Folder::files() const {
  std::vector<fs::path> names;
  for (auto entry = fs::recursive_directory_iterator(path_);
       entry != fs::recursive_directory_iterator(); ++entry) {
    if (fs::is_directory(entry->symlink_status())) {
      if (entry->path().filename().native().starts_with('.')) entry.disable_recursion_pending();
    } else if (entry->is_regular_file()) {
      names.push_back(entry->path().lexically_relative(path_));
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

bool is_beneath(const fs::path& path, const fs::path& root) {
  return std::mismatch(root.begin(), root.end(), path.begin(), path.end()).first == root.end();
}

bool is_shard_name(std::string_view name) {
  constexpr std::string_view kEnding = ".safetensors";
  auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
  };
  return name.size() > kEnding.size() && name.ends_with(kEnding) &&
         std::all_of(name.begin(), name.end(), plain);
}

}  // namespace quern::checkpoint
