// Writes one safetensors file with a known list of tensors: first the header, then data in any
// order. The bytes equal those of the safetensors library for equal content.
#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "checkpoint/byte_ranges.h"
#include "checkpoint/folder.h"
#include "checkpoint/header.h"
#include "tensor/tensor.h"

namespace quern::checkpoint {

class SafetensorsWriter {
 public:
  using Metadata = std::vector<std::pair<std::string, std::string>>;

  // Creates `file` and reserves its space. `tensors` need name, dtype and shape. With `resume`,
  // continues a file of an earlier run if its header is equal.
  SafetensorsWriter(std::filesystem::path file, std::vector<TensorInfo> tensors,
                    const Metadata& metadata, bool resume);

  const std::vector<TensorInfo>& tensors() const { return tensors_; }
  const std::filesystem::path& path() const { return path_; }

  // Writes a CPU tensor of the planned dtype and shape to its place. Any thread, any order, each
  // name once.
  void write(std::string_view name, const Tensor& tensor);
  // Writes a tensor by copying bytes of another file.
  void copy(std::string_view name, const ByteRange& from);
  // Marks a tensor as written by an earlier run.
  void assume_written(std::string_view name);

  bool written(std::string_view name) const;
  void sync() const;  // fails if a tensor has not been written

 private:
  size_t place_of(std::string_view name) const;
  // Runs `put_bytes` on the tensor's range of the file; a tensor can be put again only after a
  // failure.
  void put(size_t place, const std::function<void(const ByteRange&)>& put_bytes);

  std::filesystem::path path_;
  Descriptor file_;
  std::vector<TensorInfo> tensors_;
  std::unordered_map<std::string_view, size_t> places_;
  std::unique_ptr<std::atomic<bool>[]> claimed_;
};

// Writes a whole file; it gets its name when complete.
void write_safetensors(const std::filesystem::path& file,
                       const std::vector<std::pair<std::string, Tensor>>& tensors,
                       const SafetensorsWriter::Metadata& metadata = {});

}  // namespace quern::checkpoint
