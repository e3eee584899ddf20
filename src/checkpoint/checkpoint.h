// A Hugging Face model folder: config.json, and tensors in one or several safetensors files.
#pragma once

#include <memory>
#include <unordered_map>

#include "checkpoint/files.h"
#include "checkpoint/folder.h"

namespace quern::checkpoint {

class Checkpoint final : public Files {
 public:
  // Reads config.json, the index and every shard's header. Fails when the index and the shards
  // disagree in either direction, or when a shard is missing, damaged or outside the folder.
  explicit Checkpoint(const std::filesystem::path& folder);

  const std::filesystem::path& folder() const override { return folder_.path(); }
  Json config() const override;

  const std::vector<std::string>& names() const override { return names_; }
  bool has(std::string_view name) const override;
  const TensorInfo& info(std::string_view name) const override;
  Tensor tensor(std::string_view name) const override;
  std::span<const std::byte> bytes(std::string_view name) const override;
  size_t total_bytes() const override { return total_bytes_; }

  void release(std::string_view name) const override;
  void release_all() const override;

  std::vector<std::filesystem::path> files() const override { return folder_.files(); }
  bool has_file(const std::filesystem::path& file) const override { return folder_.has(file); }
  JsonValue json(const std::filesystem::path& file) const override;
  std::string text(const std::filesystem::path& file) const override;
  Descriptor open(const std::filesystem::path& file) const override { return folder_.open(file); }
  std::vector<std::filesystem::path> shards() const override;
  std::filesystem::path shard(std::string_view name) const override;

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
