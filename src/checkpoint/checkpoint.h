// A Hugging Face model folder, read: its configuration, and its tensors by name from one file or
// many. What it returns is byte for byte what is on disk, and nothing is loaded before it is
// touched.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/json.h"
#include "checkpoint/folder.h"
#include "checkpoint/safetensors.h"
#include "tensor/tensor.h"

namespace quern::checkpoint {

class Checkpoint {
 public:
  // Reads config.json, the index and every shard's header. Fails when the index and the shards do
  // not agree, in either direction, or when a shard is missing, damaged or outside the folder.
  explicit Checkpoint(const std::filesystem::path& folder);
  Checkpoint(const Checkpoint&) = delete;
  Checkpoint& operator=(const Checkpoint&) = delete;

  const std::filesystem::path& folder() const { return folder_.path(); }
  Json config() const;               // lives as long as the checkpoint
  std::string architecture() const;  // the first of config.json's "architectures"

  // Shard by shard in the order of their names, each in the order of its data.
  const std::vector<std::string>& names() const { return names_; }
  bool has(std::string_view name) const;
  // Fails when there is none, naming the nearest.
  const TensorInfo& info(std::string_view name) const;
  // Looks into the mapped file and keeps it alive; read-only. Copied only if its data is not
  // aligned for its dtype.
  Tensor tensor(std::string_view name) const;
  // The bytes of tensor(name), aligned or not; valid as long as the checkpoint lives.
  std::span<const std::byte> bytes(std::string_view name) const;
  size_t total_bytes() const { return total_bytes_; }  // of all tensors

  // Gives mapped pages back, so that they do not count as this process's memory. Tensors stay
  // valid.
  void release(std::string_view name) const;
  void release_all() const;

  // Every file of the folder, as sorted relative paths; see Folder::files.
  std::vector<std::filesystem::path> files() const { return folder_.files(); }
  bool has_file(const std::filesystem::path& file) const { return folder_.has(file); }
  // The text of one of them, parsed, read without following a link out of the folder.
  JsonValue json(const std::filesystem::path& file) const;
  std::string text(const std::filesystem::path& file) const;
  // One of them, opened without following a link out of the folder.
  Descriptor open(const std::filesystem::path& file) const { return folder_.open(file); }
  // The shards that hold the tensors, and the one that holds `name`, relative to the folder.
  std::vector<std::filesystem::path> shards() const;
  std::filesystem::path shard(std::string_view name) const;

 private:
  void open_single();
  void open_index();
  void add(const SafetensorsFile& shard);
  const SafetensorsFile& shard_of(std::string_view name) const;

  Folder folder_;
  std::shared_ptr<const JsonValue> config_;
  std::vector<std::unique_ptr<const SafetensorsFile>> shards_;
  std::unordered_map<std::string_view, const SafetensorsFile*> places_;
  std::vector<std::string> names_;
  size_t total_bytes_ = 0;
};

}  // namespace quern::checkpoint
