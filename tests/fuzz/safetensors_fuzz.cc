// The first two bytes say how much data follows the header, the rest is the header; or, when they
// are 0xffff, the rest is a whole file. Accepted tensors must cover the file exactly, and their
// header must survive writing and reading.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

#include "base/error.h"
#include "checkpoint/header.h"

namespace {

using quern::checkpoint::Header;

std::span<const std::byte> as_bytes(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

std::string file_of(const uint8_t* data, size_t size) {
  uint16_t data_bytes = 0;
  if (size < sizeof(data_bytes)) return {};
  std::memcpy(&data_bytes, data, sizeof(data_bytes));
  std::string text(reinterpret_cast<const char*>(data) + 2, size - 2);
  if (data_bytes == 0xffff) return text;
  const uint64_t length = text.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + text +
         std::string(data_bytes, '\0');
}

void check(bool condition) {
  if (!condition) std::abort();
}

void check_round_trip(Header header, size_t begin, size_t file_bytes) {
  for (const auto& tensor : header.tensors) {
    check(tensor.begin == begin && tensor.end >= begin);
    begin = tensor.end;
  }
  check(begin == file_bytes);
  std::string again = quern::checkpoint::make_header(header.tensors, header.metadata);
  const size_t header_bytes = again.size();
  again.resize(header.tensors.empty() ? header_bytes : header.tensors.back().end);
  const Header read = quern::checkpoint::parse_header(as_bytes(again), "again");
  check(read.metadata == header.metadata && read.tensors.size() == header.tensors.size());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string file = file_of(data, size);
  Header header;
  try {
    header = quern::checkpoint::parse_header(as_bytes(file), "input");
  } catch (const quern::Error&) {
    return 0;
  }
  uint64_t length = 0;
  std::memcpy(&length, file.data(), sizeof(length));
  check_round_trip(std::move(header), sizeof(length) + length, file.size());
  return 0;
}
