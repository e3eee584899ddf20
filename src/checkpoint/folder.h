// A model folder from an untrusted source: no name and no link leads out of it when files are
// opened.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"

namespace quern::checkpoint {

// The only exception: in a snapshot of Hugging Face's download cache
// (models--ORG--NAME/snapshots/REVISION) every file is a link to models--ORG--NAME/blobs/HASH, and
// such links are followed.
class Folder {
 public:
  explicit Folder(std::filesystem::path path);

  const std::filesystem::path& path() const { return path_; }
  // `name` is relative to the folder. Fails if the file does not exist or is outside the folder.
  Descriptor open(const std::filesystem::path& name) const;
  bool has(const std::filesystem::path& name) const;
  // All files as sorted relative paths, including subfolders, but not those with a leading dot
  // (.git, .cache), nor links to folders.
  std::vector<std::filesystem::path> files() const;

 private:
  Descriptor open_blob(const std::filesystem::path& name) const;

  std::filesystem::path path_;
  Descriptor root_;
  Descriptor blobs_;                  // the cache's blobs/ if the folder is a snapshot
  std::filesystem::path blobs_path_;  // canonical
  std::filesystem::path canonical_;
};

// Compares the paths as written; give canonical paths if links matter.
bool is_beneath(const std::filesystem::path& path, const std::filesystem::path& root);

// Whether the name is valid for a shard: letters, digits, dot, underscore, minus, and the ending
// .safetensors.
bool is_shard_name(std::string_view name);

}  // namespace quern::checkpoint
