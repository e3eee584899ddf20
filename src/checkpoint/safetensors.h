// One safetensors file, read through a mapping tensor by tensor.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/file.h"
#include "checkpoint/header.h"
#include "tensor/tensor.h"

namespace quern::checkpoint {

// Opening reads the header alone. Tensors look into the mapping and keep it alive.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& file);
  // A file that is open already; `file` is for messages only. The descriptor stays the caller's.
  SafetensorsFile(int descriptor, const std::filesystem::path& file);

  SafetensorsFile(SafetensorsFile&&) = default;  // not copied: places_ looks into header_

  const std::filesystem::path& path() const { return path_; }
  // In the order of their data.
  const std::vector<TensorInfo>& tensors() const { return header_.tensors; }
  const std::vector<std::pair<std::string, std::string>>& metadata() const {
    return header_.metadata;
  }

  bool has(std::string_view name) const;
  const TensorInfo& info(std::string_view name) const;  // fails when there is none

  // Byte for byte what is on disk. No copy is made unless the data is not aligned for its dtype.
  Tensor tensor(std::string_view name) const;
  std::span<const std::byte> bytes(const TensorInfo& tensor) const;

  // Mapped pages that were read count as this process's memory until they are released; they are
  // read again when touched. Tensors stay valid.
  void release(const TensorInfo& tensor) const;
  void release_all() const;

 private:
  SafetensorsFile(std::shared_ptr<const MappedFile> file, const std::filesystem::path& path);

  std::filesystem::path path_;
  std::shared_ptr<const MappedFile> file_;
  Header header_;
  std::unordered_map<std::string_view, size_t> places_;  // name -> index into header_.tensors
};

}  // namespace quern::checkpoint
