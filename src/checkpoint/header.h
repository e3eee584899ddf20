// The header of a safetensors file: reads it with every rule of the format, and writes it with the
// bytes that the safetensors library writes for the same tensors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tensor/tensor.h"

namespace quern::checkpoint {

// One tensor as a safetensors header declares it.
struct TensorInfo {
  std::string name;
  DType dtype = at::kFloat;
  std::vector<int64_t> shape;
  size_t begin = 0, end = 0;  // bytes in the file

  size_t bytes() const { return end - begin; }
};

struct Header {
  std::vector<TensorInfo> tensors;  // in the order of their data
  // "__metadata__", in the order of the file.
  std::vector<std::pair<std::string, std::string>> metadata;
};

// The limit of the format (header) and limits of this program (the rest).
constexpr size_t kMaxHeaderBytes = 100'000'000;
constexpr size_t kMaxTensors = 1'000'000;
constexpr size_t kMaxNameBytes = 1024;
constexpr size_t kMaxRank = 8;

// Reads the header at the start of `file`, which spans the whole file; bytes after the header are
// not touched. `origin` names the file in messages. Refuses an incomplete length, bytes before `{`,
// invalid UTF-8 or JSON, duplicate names, an unknown dtype or field, an offset that is not a whole
// number, tensors that overlap or leave holes, a shape that overflows or does not fit its bytes,
// and a file whose length contradicts its header.
Header parse_header(std::span<const std::byte> file, const std::string& origin);

// Sorts `tensors` as the library does (by dtype, then by name), sets their begin and end, and
// returns the first bytes of the file: length, header, padding.
std::string make_header(std::vector<TensorInfo>& tensors,
                        const std::vector<std::pair<std::string, std::string>>& metadata);

// The product of a shape and the dtype's size; fails, naming `tensor`, on overflow.
size_t bytes_of(const std::vector<int64_t>& shape, DType dtype, const std::string& tensor);

// A name from a file in a form for messages: escaped, and cut if very long.
std::string printable(std::string_view name);

}  // namespace quern::checkpoint
