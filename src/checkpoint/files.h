// The files of a model, read: its configuration, its tensors by name, and everything else that lies
// beside them. What they return is byte for byte what is on disk, and nothing is loaded before it
// is touched. A way of storing models is one implementation.
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
  // As transformers reads it from config.json; lives as long as the files.
  virtual Json config() const = 0;
  std::string architecture() const;  // the first of its "architectures"

  // In the order of the files that hold them, each in the order of its data.
  virtual const std::vector<std::string>& names() const = 0;
  virtual bool has(std::string_view name) const = 0;
  // Fails when there is none, naming the nearest.
  virtual const TensorInfo& info(std::string_view name) const = 0;
  // Looks into the mapped file and keeps it alive; read-only. Copied only if its data is not
  // aligned for its dtype.
  virtual Tensor tensor(std::string_view name) const = 0;
  // The bytes of tensor(name), aligned or not; valid as long as the files live.
  virtual std::span<const std::byte> bytes(std::string_view name) const = 0;
  virtual size_t total_bytes() const = 0;  // of all tensors

  // Gives mapped pages back, so that they do not count as this process's memory. Tensors stay
  // valid.
  virtual void release(std::string_view name) const = 0;
  virtual void release_all() const = 0;

  // Every file of the folder, as sorted relative paths; see Folder::files.
  virtual std::vector<std::filesystem::path> files() const = 0;
  virtual bool has_file(const std::filesystem::path& file) const = 0;
  // The text of one of them, parsed, read without following a link out of the folder.
  virtual JsonValue json(const std::filesystem::path& file) const = 0;
  virtual std::string text(const std::filesystem::path& file) const = 0;
  // One of them, opened without following a link out of the folder.
  virtual Descriptor open(const std::filesystem::path& file) const = 0;
  // The files that hold the tensors, and the one that holds `name`, relative to the folder.
  virtual std::vector<std::filesystem::path> shards() const = 0;
  virtual std::filesystem::path shard(std::string_view name) const = 0;
};

// The files of the model at `path`, by what lies there. Fails as Checkpoint does.
std::unique_ptr<const Files> open_model(const std::filesystem::path& path);

}  // namespace quern::checkpoint
