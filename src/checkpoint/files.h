// Read access to the files of a model: its configuration, its tensors by name, and all other files
// next to them. All contents are byte for byte those on disk and are loaded when touched. Each way
// of storing models is one implementation.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "checkpoint/safetensors.h"
#include "tensor/tensor.h"

namespace quern::checkpoint {

class Files {
 public:
  Files() = default;
  virtual ~Files() = default;
  Files(const Files&) = delete;
  Files& operator=(const Files&) = delete;

  virtual const std::filesystem::path& folder() const = 0;
  // The configuration as in config.json; lives as long as this object.
  virtual Json config() const = 0;
  std::string architecture() const;  // the first entry of "architectures"

  // In the order of the shards, and in each shard in the order of the data.
  virtual const std::vector<std::string>& names() const = 0;
  virtual bool has(std::string_view name) const = 0;
  // Fails if there is none, and names the nearest.
  virtual const TensorInfo& info(std::string_view name) const = 0;
  // A read-only view of the mapped file, which it keeps alive. Copied only if the data is not
  // aligned for its dtype.
  virtual Tensor tensor(std::string_view name) const = 0;
  // The bytes of tensor(name), aligned or not; valid as long as this object.
  virtual std::span<const std::byte> bytes(std::string_view name) const = 0;
  virtual size_t total_bytes() const = 0;  // of all tensors

  // Releases mapped pages, which then do not count as this process's memory. Tensors stay valid.
  virtual void release(std::string_view name) const = 0;
  virtual void release_all() const = 0;

  // Every file of the folder, as sorted relative paths; see Folder::files.
  virtual std::vector<std::filesystem::path> files() const = 0;
  virtual bool has_file(const std::filesystem::path& file) const = 0;
  // Parses one of these files, without following a link out of the folder.
  virtual JsonValue json(const std::filesystem::path& file) const = 0;
  virtual std::string text(const std::filesystem::path& file) const = 0;
  // Opens one of these files, without following a link out of the folder.
  virtual Descriptor open(const std::filesystem::path& file) const = 0;
  // The files with tensors, and the file with tensor `name`, relative to the folder.
  virtual std::vector<std::filesystem::path> shards() const = 0;
  virtual std::filesystem::path shard(std::string_view name) const = 0;
};

// Opens the model at `path` with the matching implementation. Fails as Checkpoint does.
std::unique_ptr<const Files> open_model(const std::filesystem::path& path);

}  // namespace quern::checkpoint
