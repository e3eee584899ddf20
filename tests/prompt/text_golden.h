// Goldens of tokenizers and templates (tests/data/text), and where files that others wrote may lie.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "base/json.h"

namespace quern::prompt {

inline std::filesystem::path data_folder() {
  return std::filesystem::path(QUERN_SOURCE_DIR) / "tests/data/text";
}

inline const JsonValue& golden() {
  static const JsonValue document = read_json(data_folder() / "text_golden.json");
  return document;
}

// Real templates, tokenizers, data: $QUERN_ASSETS, else ../shared beside the source.
inline std::filesystem::path assets() {
  const char* given = std::getenv("QUERN_ASSETS");
  return given != nullptr ? std::filesystem::path(given)
                          : std::filesystem::path(QUERN_SOURCE_DIR).parent_path() / "shared";
}

}  // namespace quern::prompt
