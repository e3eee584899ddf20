// JSON documents that keep the order of their keys, and their origin, to report a missing key with
// file and path. Parsing is bounded in size and depth and refuses duplicate keys.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace quern {

struct JsonLimits {
  size_t bytes = 256u << 20;
  int depth = 64;
};

// The value type: nlohmann's ordered JSON. Include <nlohmann/json.hpp> to build values or take them
// apart.
using JsonValue = nlohmann::ordered_json;

// `origin` names the document in error messages ("config.json").
JsonValue parse_json(std::string_view text, const std::string& origin,
                     const JsonLimits& limits = {});
JsonValue read_json(const std::filesystem::path& file, const JsonLimits& limits = {});

// Two-space indentation, unescaped non-ASCII text and a final newline, as in Hugging Face's files.
std::string to_text(const JsonValue& value);

// One object inside a document, read by key. Cheap to copy; the document must outlive it.
class Json {
 public:
  Json(const JsonValue& value, std::string path) : value_(&value), path_(std::move(path)) {}

  bool has(std::string_view key) const;  // present and not null
  Json at(std::string_view key) const;   // fails with the path when it is missing
  Json at(size_t index) const;
  size_t size() const;
  std::vector<std::string> keys() const;
  bool is_object() const;
  bool is_array() const;
  bool is_string() const;

  // T: bool, int, int64_t, double, std::string, std::vector of these. A whole number may be written
  // as a float (200.0). Fails with the path on a wrong type or range.
  template <class T>
  T as() const;
  template <class T>
  T get(std::string_view key) const {
    return at(key).as<T>();
  }
  template <class T>
  T get(std::string_view key, T otherwise) const {
    return has(key) ? at(key).as<T>() : otherwise;
  }

  const JsonValue& value() const { return *value_; }
  const std::string& path() const { return path_; }

 private:
  const JsonValue* value_;
  std::string path_;  // "config.json: text_config.rope_parameters"
};

}  // namespace quern
