// One object of a request, read by key. What has the wrong type is refused with the path of the
// field, in the words that vLLM's clients know. null is the same as absent.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"

namespace quern::serve {

class Fields {
 public:
  // Both must outlive it. A key that `object` lacks is looked for in `defaults`.
  Fields(const JsonValue& object, std::string path, const JsonValue* defaults = nullptr);

  bool has(const char* key) const { return find(key) != nullptr; }
  const JsonValue* find(const char* key) const;
  std::string path_of(const std::string& key) const { return path_ + "." + key; }

  std::optional<bool> boolean(const char* key) const;
  std::optional<int64_t> integer(const char* key) const;  // 5 and 5.0
  std::optional<double> number(const char* key) const;    // finite
  std::optional<std::string> text(const char* key) const;
  // A list; one element alone counts as a list of it.
  std::optional<std::vector<std::string>> texts(const char* key) const;
  std::optional<std::vector<int32_t>> ids(const char* key) const;
  // Part of the object that this reads; null: absent.
  const JsonValue* object(const char* key) const;
  const JsonValue* list(const char* key) const;

 private:
  const JsonValue& object_;
  std::string path_;
  const JsonValue* defaults_;
};

// The same of one value, for lists and unions. Refused with `path`.
int64_t integer_of(const JsonValue& value, const std::string& path);
double number_of(const JsonValue& value, const std::string& path);
std::string text_of(const JsonValue& value, const std::string& path);
std::vector<int32_t> ids_of(const JsonValue& value, const std::string& path);

}  // namespace quern::serve
