// A model folder that somebody else filled: its files are opened so that no name and no link leads
// out of it.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"

namespace quern::checkpoint {

// The one exception to "no link leads out": in a snapshot of Hugging Face's download cache
// (models--ORG--NAME/snapshots/REVISION) every file is a link to models--ORG--NAME/blobs/HASH, and
// is followed there.
class Folder {
 public:
  explicit Folder(std::filesystem::path path);

  const std::filesystem::path& path() const { return path_; }
  // `name` is relative to the folder. Fails when there is no such file, or when it lies outside.
  Descriptor open(const std::filesystem::path& name) const;
  bool has(const std::filesystem::path& name) const;
  // Every file, as a sorted relative path; subfolders included, those whose name starts with a dot
  // (.git, .cache) and links to folders not.
  std::vector<std::filesystem::path> files() const;

 private:
  Descriptor open_blob(const std::filesystem::path& name) const;

  std::filesystem::path path_;
  Descriptor root_;
  Descriptor blobs_;                  // the cache's blobs/ when the folder is a snapshot
  std::filesystem::path blobs_path_;  // canonical
  std::filesystem::path canonical_;
};

// Both are taken as they are spelt; give canonical paths when links matter.
bool is_beneath(const std::filesystem::path& path, const std::filesystem::path& root);

// Whether a shard may be called so: letters, digits, dot, underscore, minus, and the ending
// .safetensors.
bool is_shard_name(std::string_view name);

}  // namespace quern::checkpoint
