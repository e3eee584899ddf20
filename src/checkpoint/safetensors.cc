#include "checkpoint/safetensors.h"

#include <cstring>

#include "base/error.h"

namespace quern::checkpoint {
namespace fs = std::filesystem;

SafetensorsFile::SafetensorsFile(const fs::path& file)
    : SafetensorsFile(std::make_shared<const MappedFile>(file), file) {}

SafetensorsFile::SafetensorsFile(int descriptor, const fs::path& file)
    : SafetensorsFile(std::make_shared<const MappedFile>(descriptor, file), file) {}

SafetensorsFile::SafetensorsFile(std::shared_ptr<const MappedFile> file, const fs::path& path)
    : path_(path), file_(std::move(file)), header_(parse_header(file_->bytes(), path.string())) {
  places_.reserve(header_.tensors.size());
  for (size_t i = 0; i < header_.tensors.size(); ++i) places_.emplace(header_.tensors[i].name, i);
}

bool SafetensorsFile::has(std::string_view name) const { return places_.contains(name); }

const TensorInfo& SafetensorsFile::info(std::string_view name) const {
  auto found = places_.find(name);
  if (found == places_.end()) fail("{}: there is no tensor {}", path_.string(), printable(name));
  return header_.tensors[found->second];
}

Tensor SafetensorsFile::tensor(std::string_view name) const {
  const TensorInfo& wanted = info(name);
  if (wanted.bytes() == 0) return at::empty(wanted.shape, wanted.dtype);
  const std::byte* data = file_->bytes().data() + wanted.begin;
  Tensor view = borrow(data, wanted.shape, wanted.dtype, file_);
  const size_t alignment = c10::isComplexType(wanted.dtype) ? c10::elementSize(wanted.dtype) / 2
                                                            : c10::elementSize(wanted.dtype);
  if (wanted.begin % alignment == 0) return view;
  Tensor aligned = at::empty(wanted.shape, wanted.dtype);
  std::memcpy(aligned.data_ptr(), data, wanted.bytes());
  return aligned;
}

std::span<const std::byte> SafetensorsFile::bytes(const TensorInfo& tensor) const {
  return file_->bytes().subspan(tensor.begin, tensor.bytes());
}

void SafetensorsFile::release(const TensorInfo& tensor) const {
  file_->release(tensor.begin, tensor.bytes());
}

void SafetensorsFile::release_all() const { file_->release(0, file_->bytes().size()); }

}  // namespace quern::checkpoint
