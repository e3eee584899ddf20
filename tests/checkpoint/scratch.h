// Shared by the tests of this folder: hostile files, and the message of a failure.
#pragma once

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <string_view>

#include "base/error.h"
#include "tests/scratch.h"

namespace quern::checkpoint {

inline std::string error_of(const std::function<void()>& action, Exit* code = nullptr) {
  try {
    action();
  } catch (const Error& error) {
    if (code) *code = error.code();
    return error.what();
  }
  return "";
}

inline std::string slurp(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// The first bytes of a safetensors file with this header.
inline std::string with_length(std::string_view header) {
  const uint64_t length = header.size();
  std::string bytes(sizeof(length), '\0');
  std::memcpy(bytes.data(), &length, sizeof(length));
  return bytes.append(header);
}

}  // namespace quern::checkpoint
