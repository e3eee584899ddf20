#include "serve/fields.h"

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "serve/errors.h"

namespace quern::serve {

Fields::Fields(const JsonValue& object, std::string path, const JsonValue* defaults)
    : object_(object), path_(std::move(path)), defaults_(defaults) {
  if (!object_.is_object()) refuse_field(path_, "Input should be a valid dictionary");
}

const JsonValue* Fields::find(const char* key) const {
  for (const JsonValue* from : {&object_, defaults_}) {
    if (!from) continue;
    const auto found = from->find(key);
    if (found != from->end() && !found->is_null()) return &*found;
  }
  return nullptr;
}

std::optional<bool> Fields::boolean(const char* key) const {
  const JsonValue* value = find(key);
  if (!value) return std::nullopt;
  if (!value->is_boolean()) refuse_field(path_of(key), "Input should be a valid boolean");
  return value->get<bool>();
}

std::optional<int64_t> Fields::integer(const char* key) const {
  const JsonValue* value = find(key);
  if (!value) return std::nullopt;
  return integer_of(*value, path_of(key));
}

std::optional<double> Fields::number(const char* key) const {
  const JsonValue* value = find(key);
  if (!value) return std::nullopt;
  return number_of(*value, path_of(key));
}

std::optional<std::string> Fields::text(const char* key) const {
  const JsonValue* value = find(key);
  if (!value) return std::nullopt;
  return text_of(*value, path_of(key));
}

std::optional<std::vector<std::string>> Fields::texts(const char* key) const {
  const JsonValue* value = find(key);
  if (!value) return std::nullopt;
  if (value->is_string()) return std::vector{value->get<std::string>()};
  if (!value->is_array()) refuse_field(path_of(key), "Input should be a valid string or list");
  std::vector<std::string> texts;
  for (size_t i = 0; i < value->size(); ++i)
    texts.push_back(text_of((*value)[i], path_of(key) + "." + std::to_string(i)));
  return texts;
}

std::optional<std::vector<int32_t>> Fields::ids(const char* key) const {
  const JsonValue* value = find(key);
  if (!value) return std::nullopt;
  if (!value->is_array()) refuse_field(path_of(key), "Input should be a valid list");
  return ids_of(*value, path_of(key));
}

const JsonValue* Fields::object(const char* key) const {
  const JsonValue* value = find(key);
  if (value && !value->is_object())
    refuse_field(path_of(key), "Input should be a valid dictionary");
  return value;
}

const JsonValue* Fields::list(const char* key) const {
  const JsonValue* value = find(key);
  if (value && !value->is_array()) refuse_field(path_of(key), "Input should be a valid list");
  return value;
}

int64_t integer_of(const JsonValue& value, const std::string& path) {
  constexpr auto kMost = std::numeric_limits<int64_t>::max();
  if (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(kMost))
    refuse_field(path, "Input should be a 64-bit integer");
  if (value.is_number_integer()) return value.get<int64_t>();
  if (!value.is_number_float()) refuse_field(path, "Input should be a valid integer");
  const double number = value.get<double>();
  if (number != std::floor(number))
    refuse_field(path, "Input should be a valid integer, got a number with a fractional part");
  if (std::abs(number) > 0x1p53) refuse_field(path, "Input should be a 64-bit integer");
  return static_cast<int64_t>(number);
}

double number_of(const JsonValue& value, const std::string& path) {
  if (!value.is_number()) refuse_field(path, "Input should be a valid number");
  const double number = value.get<double>();
  if (!std::isfinite(number)) refuse_field(path, "Input should be a finite number");
  return number;
}

std::string text_of(const JsonValue& value, const std::string& path) {
  if (!value.is_string()) refuse_field(path, "Input should be a valid string");
  return value.get<std::string>();
}

std::vector<int32_t> ids_of(const JsonValue& value, const std::string& path) {
  std::vector<int32_t> ids;
  ids.reserve(value.size());
  for (size_t i = 0; i < value.size(); ++i) {
    const bool whole = value[i].is_number_integer();
    const int64_t id = whole ? value[i].get<int64_t>() : -1;
    if (!whole) refuse_field(path + "." + std::to_string(i), "Input should be a valid integer");
    if (id < 0 || id > std::numeric_limits<int32_t>::max())
      refuse_field(path + "." + std::to_string(i), "Input should be a token id");
    ids.push_back(static_cast<int32_t>(id));
  }
  return ids;
}

}  // namespace quern::serve
