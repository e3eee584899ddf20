#include "base/json.h"

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "base/error.h"
#include "base/file.h"
#include "base/json_objects.h"

namespace quern {
namespace {

// Builds the document through nlohmann's SAX interface, because its DOM parser neither bounds the
// depth nor detects duplicate keys.
class Builder : public nlohmann::json_sax<JsonValue> {
 public:
  Builder(const std::string& origin, const JsonLimits& limits) : origin_(origin), limits_(limits) {}

  JsonValue take() { return std::move(root_); }

  bool null() override { return put(nullptr); }
  bool boolean(bool value) override { return put(value); }
  bool number_integer(number_integer_t value) override { return put(value); }
  bool number_unsigned(number_unsigned_t value) override { return put(value); }
  bool number_float(number_float_t value, const string_t&) override { return put(value); }
  bool string(string_t& value) override { return put(std::move(value)); }
  bool binary(binary_t&) override { return false; }

  bool start_object(size_t) override { return open(JsonValue::object()); }
  bool end_object() override { return close(); }
  bool start_array(size_t) override { return open(JsonValue::array()); }
  bool end_array() override { return close(); }

  bool key(string_t& value) override {
    if (!seen_.back().insert(value).second)
      fail("{}: the key \"{}\" appears twice in one object", origin_, value);
    key_ = std::move(value);
    return true;
  }

  bool parse_error(size_t position, const std::string& token,
                   const nlohmann::json::exception&) override {
    fail("{}: not valid JSON at byte {}, near \"{}\"", origin_, position, token.substr(0, 40));
  }

 private:
  template <class T>
  JsonValue* add(T&& value) {
    if (stack_.empty()) {
      root_ = std::forward<T>(value);
      return &root_;
    }
    JsonValue& parent = *stack_.back();
    if (parent.is_array()) {
      parent.push_back(std::forward<T>(value));
      return &parent.back();
    }
    append(parent, std::move(key_), std::forward<T>(value));
    return &parent.get_ref<JsonValue::object_t&>().back().second;
  }

  template <class T>
  bool put(T&& value) {
    add(JsonValue(std::forward<T>(value)));
    return true;
  }

  bool open(JsonValue container) {
    if (static_cast<int>(stack_.size()) >= limits_.depth) {
      fail("{}: nested deeper than {} levels", origin_, limits_.depth);
    }
    stack_.push_back(add(std::move(container)));
    seen_.emplace_back();
    return true;
  }

  bool close() {
    stack_.pop_back();
    seen_.pop_back();
    return true;
  }

  std::string origin_;
  JsonLimits limits_;
  JsonValue root_;
  std::vector<JsonValue*> stack_;
  std::vector<std::unordered_set<std::string>> seen_;
  std::string key_;
};

std::string type_name(const JsonValue& value) { return value.type_name(); }

[[noreturn]] void wrong_type(const Json& json, const char* wanted) {
  fail("{} must be {}, found {}", json.path(), wanted, type_name(json.value()));
}

// The path of a key: "config.json: text_config.heads".
std::string below(const std::string& path, std::string_view key) {
  const bool first = path.ends_with(':') || path.find(": ") == std::string::npos;
  return fmt::format("{}{}{}", path, first ? ": " : ".", key);
}

template <class T>
void convert(const Json& json, T& out);

template <>
void convert(const Json& json, bool& out) {
  if (!json.value().is_boolean()) wrong_type(json, "true or false");
  out = json.value().get<bool>();
}

template <>
void convert(const Json& json, int64_t& out) {
  const JsonValue& value = json.value();
  if (value.is_number_unsigned() &&
      value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    fail("{} is {}, which is too large", json.path(), value.get<uint64_t>());
  }
  if (value.is_number_float()) {
    // Many programs write whole numbers as floats, such as 200.0. Up to 2^53 they are exact.
    constexpr double kExact = 9007199254740992;  // 2^53
    const double number = value.get<double>();
    if (std::trunc(number) != number || std::abs(number) > kExact)
      fail("{} must be a whole number, found {}", json.path(), value.dump());
    out = static_cast<int64_t>(number);
    return;
  }
  if (!value.is_number_integer()) wrong_type(json, "a whole number");
  out = value.get<int64_t>();
}

template <>
void convert(const Json& json, int& out) {
  int64_t wide = 0;
  convert(json, wide);
  if (wide < std::numeric_limits<int>::min() || wide > std::numeric_limits<int>::max()) {
    fail("{} is {}, which is out of range", json.path(), wide);
  }
  out = static_cast<int>(wide);
}

template <>
void convert(const Json& json, double& out) {
  if (!json.value().is_number()) wrong_type(json, "a number");
  out = json.value().get<double>();
}

template <>
void convert(const Json& json, std::string& out) {
  if (!json.value().is_string()) wrong_type(json, "a string");
  out = json.value().get<std::string>();
}

template <class T>
void convert_all(const Json& json, std::vector<T>& out) {
  if (!json.value().is_array()) wrong_type(json, "a list");
  out.resize(json.size());
  for (size_t i = 0; i < out.size(); ++i) convert(json.at(i), out[i]);
}

template <>
void convert(const Json& json, std::vector<std::string>& out) {
  convert_all(json, out);
}
template <>
void convert(const Json& json, std::vector<int>& out) {
  convert_all(json, out);
}
template <>
void convert(const Json& json, std::vector<int64_t>& out) {
  convert_all(json, out);
}
template <>
void convert(const Json& json, std::vector<double>& out) {
  convert_all(json, out);
}

}  // namespace

JsonValue parse_json(std::string_view text, const std::string& origin, const JsonLimits& limits) {
  if (text.size() > limits.bytes)
    fail("{}: {} bytes exceed the limit of {}", origin, text.size(), limits.bytes);
  // nlohmann's lexer treats a zero byte as the end of the text and would ignore the rest.
  if (size_t zero = text.find('\0'); zero != std::string_view::npos)
    fail("{}: not valid JSON: zero byte at {}", origin, zero);
  Builder builder(origin, limits);
  JsonValue::sax_parse(text.begin(), text.end(), &builder);
  return builder.take();
}

JsonValue read_json(const std::filesystem::path& file, const JsonLimits& limits) {
  return parse_json(read_file(file, limits.bytes), file.string(), limits);
}

std::string to_text(const JsonValue& value) {
  return value.dump(2, ' ', /*ensure_ascii=*/false) + "\n";
}

void append(JsonValue& object, std::string key, JsonValue value) {
  object.get_ref<JsonValue::object_t&>().Container::emplace_back(std::move(key), std::move(value));
}

bool Json::has(std::string_view key) const {
  if (!value_->is_object()) return false;
  auto found = value_->find(key);
  return found != value_->end() && !found->is_null();
}

Json Json::at(std::string_view key) const {
  if (!value_->is_object()) wrong_type(*this, "an object");
  auto found = value_->find(key);
  std::string path = below(path_, key);
  if (found == value_->end()) fail("{} is missing", path);
  return Json(*found, std::move(path));
}

Json Json::at(size_t index) const {
  if (!value_->is_array()) wrong_type(*this, "a list");
  if (index >= value_->size())
    fail("{} has {} entries, but entry {} is needed", path_, value_->size(), index);
  return Json((*value_)[index], fmt::format("{}[{}]", path_, index));
}

size_t Json::size() const { return value_->size(); }

std::vector<std::string> Json::keys() const {
  std::vector<std::string> names;
  for (auto it = value_->begin(); it != value_->end(); ++it) names.push_back(it.key());
  return names;
}

std::vector<std::pair<std::string, Json>> entries(const Json& object) {
  if (!object.is_object()) wrong_type(object, "an object");
  std::vector<std::pair<std::string, Json>> list;
  for (auto it = object.value().begin(); it != object.value().end(); ++it)
    list.emplace_back(it.key(), Json(it.value(), below(object.path(), it.key())));
  return list;
}

bool Json::is_object() const { return value_->is_object(); }
bool Json::is_array() const { return value_->is_array(); }
bool Json::is_string() const { return value_->is_string(); }

template <class T>
T Json::as() const {
  T out{};
  convert(*this, out);
  return out;
}

template bool Json::as() const;
template int Json::as() const;
template int64_t Json::as() const;
template double Json::as() const;
template std::string Json::as() const;
template std::vector<std::string> Json::as() const;
template std::vector<int> Json::as() const;
template std::vector<int64_t> Json::as() const;
template std::vector<double> Json::as() const;

}  // namespace quern
