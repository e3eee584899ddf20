#include "checkpoint/safetensors_writer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/dtype.h"

namespace quern::checkpoint {
namespace fs = std::filesystem;
namespace {

std::span<const std::byte> as_bytes(std::string_view text) {
  return std::as_bytes(std::span<const char>(text.data(), text.size()));
}

// Reserves space, to fail now and not hours later if the disk is too small.
void reserve(int descriptor, size_t bytes, const std::string& name) {
  const auto size = static_cast<off_t>(bytes);
  int result = 0;
  while ((result = ::fallocate(descriptor, 0, 0, size)) != 0 && errno == EINTR) {
  }
  if (result != 0 && errno == EOPNOTSUPP) result = ::ftruncate(descriptor, size);
  if (result != 0) fail_on_disk(errno, fmt::format("reserve {} bytes", bytes), name);
}

bool continues(int descriptor, std::string_view header, size_t bytes, const std::string& name) {
  struct stat status{};
  if (::fstat(descriptor, &status) != 0) fail_on_disk(errno, "look at", name);
  if (status.st_size != static_cast<off_t>(bytes)) return false;
  std::string found(header.size(), '\0');
  return ::pread(descriptor, found.data(), found.size(), 0) == static_cast<ssize_t>(found.size()) &&
         found == header;
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(fs::path file, std::vector<TensorInfo> tensors,
                                     const Metadata& metadata, bool resume)
    : path_(std::move(file)),
      file_(::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | (resume ? 0 : O_EXCL),
                   0644)),
      tensors_(std::move(tensors)),
      claimed_(std::make_unique<std::atomic<bool>[]>(tensors_.size())) {
  if (!file_.open()) fail_on_disk(errno, "create", path_.string());
  const std::string header = make_header(tensors_, metadata);
  places_.reserve(tensors_.size());
  for (size_t i = 0; i < tensors_.size(); ++i)
    if (!places_.emplace(tensors_[i].name, i).second)
      fail("{}: tensor {} is planned twice", path_.string(), tensors_[i].name);
  const size_t bytes = tensors_.empty() ? header.size() : tensors_.back().end;
  if (resume && continues(file_.get(), header, bytes, path_.string())) return;
  if (::ftruncate(file_.get(), 0) != 0) fail_on_disk(errno, "empty", path_.string());
  reserve(file_.get(), bytes, path_.string());
  write_range({file_.get(), 0, path_.string()}, as_bytes(header));
}

size_t SafetensorsWriter::place_of(std::string_view name) const {
  auto found = places_.find(name);
  if (found == places_.end())
    fail("{}: tensor {} was not planned", path_.string(), printable(name));
  return found->second;
}

void SafetensorsWriter::put(size_t place, const std::function<void(const ByteRange&)>& put_bytes) {
  const TensorInfo& planned = tensors_[place];
  if (claimed_[place].exchange(true))
    fail("{}: tensor {} is written twice", path_.string(), printable(planned.name));
  try {
    put_bytes({file_.get(), planned.begin, path_.string()});
  } catch (...) {
    claimed_[place] = false;
    throw;
  }
}

void SafetensorsWriter::write(std::string_view name, const Tensor& tensor) {
  const size_t place = place_of(name);
  const TensorInfo& planned = tensors_[place];
  if (tensor.scalar_type() != planned.dtype || tensor.sizes() != at::IntArrayRef(planned.shape))
    fail("tensor {}: written as {} of shape {}, but {} of shape {} was planned", printable(name),
         dtype_name(tensor.scalar_type()), shape_text(tensor), dtype_name(planned.dtype),
         shape_text(planned.shape));
  QUERN_CHECK(tensor.device().is_cpu());
  put(place, [&](const ByteRange& to) {
    const Tensor dense = tensor.contiguous();
    write_range(to, {static_cast<const std::byte*>(dense.data_ptr()), planned.bytes()});
  });
}

void SafetensorsWriter::copy(std::string_view name, const ByteRange& from) {
  const size_t place = place_of(name);
  put(place, [&](const ByteRange& to) { copy_range(from, to, tensors_[place].bytes()); });
}

void SafetensorsWriter::assume_written(std::string_view name) {
  put(place_of(name), [](const ByteRange&) {});
}

bool SafetensorsWriter::written(std::string_view name) const {
  return claimed_[place_of(name)].load();
}

void SafetensorsWriter::sync() const {
  for (size_t i = 0; i < tensors_.size(); ++i)
    if (!claimed_[i].load())
      fail(Exit::internal, "{}: tensor {} was never written", path_.string(), tensors_[i].name);
  if (::fsync(file_.get()) != 0) fail_on_disk(errno, "sync", path_.string());
}

void write_safetensors(const fs::path& file,
                       const std::vector<std::pair<std::string, Tensor>>& tensors,
                       const SafetensorsWriter::Metadata& metadata) {
  std::vector<TensorInfo> planned;
  for (const auto& [name, tensor] : tensors)
    planned.push_back({.name = name,
                       .dtype = tensor.scalar_type(),
                       .shape = tensor.sizes().vec(),
                       .begin = 0,
                       .end = 0});
  fs::path part = file;
  part += ".part";
  fs::remove(part);
  try {
    SafetensorsWriter writer(part, std::move(planned), metadata, /*resume=*/false);
    for (const auto& [name, tensor] : tensors) writer.write(name, tensor);
    writer.sync();
    fs::rename(part, file);
  } catch (...) {
    std::error_code ignored;
    fs::remove(part, ignored);
    throw;
  }
}

}  // namespace quern::checkpoint
