#include "checkpoint/carry_over.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string_view>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/byte_ranges.h"

namespace quern::checkpoint {
namespace fs = std::filesystem;
namespace {

void copy_file(const Files& source, const fs::path& name, const fs::path& folder) {
  const Descriptor from = source.open(name);
  struct stat status{};
  if (::fstat(from.get(), &status) != 0 || !S_ISREG(status.st_mode))
    fail("{}: not a regular file", (source.folder() / name).string());
  const fs::path target = folder / name;
  fs::create_directories(target.parent_path());
  const Descriptor to(
      ::open(target.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644));
  if (!to.open()) fail_on_disk(errno, "create", target.string());
  copy_range({from.get(), 0, (source.folder() / name).string()}, {to.get(), 0, target.string()},
             static_cast<size_t>(status.st_size));
  if (::fsync(to.get()) != 0) fail_on_disk(errno, "sync", target.string());
}

}  // namespace

bool is_weight_file(const fs::path& file) {
  constexpr std::array<std::string_view, 13> kEndings = {".safetensors", ".safetensors.index.json",
                                                         ".bin",         ".bin.index.json",
                                                         ".pt",          ".pth",
                                                         ".ckpt",        ".gguf",
                                                         ".h5",          ".msgpack",
                                                         ".onnx",        ".onnx_data",
                                                         ".tflite"};
  const std::string name = file.filename().string();
  return std::any_of(kEndings.begin(), kEndings.end(),
                     [&](std::string_view ending) { return name.ends_with(ending); });
}

std::vector<fs::path> other_files(const Files& source) {
  std::vector<fs::path> files = source.files();
  std::erase_if(files, is_weight_file);
  return files;
}

CarriedOver copy_other_files(const Files& source, const fs::path& folder,
                             const std::vector<fs::path>& except) {
  CarriedOver result;
  for (const fs::path& file : source.files()) {
    if (std::find(except.begin(), except.end(), file) != except.end()) continue;
    if (is_weight_file(file)) {
      result.weights.push_back(file);
      continue;
    }
    copy_file(source, file, folder);
    result.copied.push_back(file);
    for (fs::path parent = file; parent.has_parent_path();)
      sync_folder(folder / (parent = parent.parent_path()));
  }
  sync_folder(folder);
  return result;
}

}  // namespace quern::checkpoint
