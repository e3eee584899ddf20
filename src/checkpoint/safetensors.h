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

// Opening reads only the header. Tensors are views of the mapping and keep it alive.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& file);
  // Takes an open file; `file` is for messages only. The caller keeps the descriptor.
  SafetensorsFile(int descriptor, const std::filesystem::path& file);

  SafetensorsFile(SafetensorsFile&&) = default;  // not copyable: places_ refers to header_

  const std::filesystem::path& path() const { return path_; }
  // In the order of their data.
  const std::vector<TensorInfo>& tensors() const { return header_.tensors; }
  const std::vector<std::pair<std::string, std::string>>& metadata() const {
    return header_.metadata;
  }

  bool has(std::string_view name) const;
  const TensorInfo& info(std::string_view name) const;  // fails if there is none

  // Byte for byte as on disk. Copied only if the data is not aligned for its dtype.
  Tensor tensor(std::string_view name) const;
  std::span<const std::byte> bytes(const TensorInfo& tensor) const;

  // Releases mapped pages, which otherwise count as this process's memory; they are read again when
  // touched. Tensors stay valid.
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
