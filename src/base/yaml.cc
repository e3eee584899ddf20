#include "base/yaml.h"

#include <yaml-cpp/emitter.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/utf8.h"

namespace quern {
namespace {

// YAML 1.1 as PyYAML reads it, because PyYAML writes and reads recipes.
JsonValue plain_scalar(const std::string& text) {
  auto is = [&](std::initializer_list<const char*> words) {
    return std::find(words.begin(), words.end(), text) != words.end();
  };
  if (is({"", "~", "null", "Null", "NULL"})) return nullptr;
  if (is({"true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"})) return true;
  if (is({"false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"})) return false;
  if (is({".inf", ".Inf", ".INF", "+.inf"})) return std::numeric_limits<double>::infinity();
  if (is({"-.inf", "-.Inf", "-.INF"})) return -std::numeric_limits<double>::infinity();

  const char* begin = text.data() + (text[0] == '+' ? 1 : 0);
  const char* end = text.data() + text.size();
  int64_t whole = 0;
  if (auto [stop, error] = std::from_chars(begin, end, whole); error == std::errc() && stop == end)
    return whole;
  double real = 0;
  bool numeric = text.find_first_not_of("+-.0123456789eE") == std::string::npos &&
                 text.find_first_of("0123456789") != std::string::npos;
  if (auto [stop, error] = std::from_chars(begin, end, real);
      numeric && error == std::errc() && stop == end)
    return real;
  return text;
}

class Builder : public YAML::EventHandler {
 public:
  Builder(const std::string& origin, const YamlLimits& limits) : origin_(origin), limits_(limits) {}

  JsonValue take() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    refuse_anchor(mark, anchor);
    put(mark, nullptr, "");
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override { refuse_anchor(mark, 1); }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    refuse_anchor(mark, anchor);
    // The escapes \N and \_ become single bytes in yaml-cpp.
    if (!is_utf8(value))
      fail("{}: the escapes \\N and \\_ are not accepted; write \\u0085 and \\u00a0", where(mark));
    // yaml-cpp marks a quoted scalar with the tag "!".
    put(mark, tag == "!" || tag == "tag:yaml.org,2002:str" ? JsonValue(value) : plain_scalar(value),
        value);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    refuse_anchor(mark, anchor);
    open(mark, JsonValue::array());
  }
  void OnSequenceEnd() override { stack_.pop_back(); }
  void OnMapStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    refuse_anchor(mark, anchor);
    open(mark, JsonValue::object());
  }
  void OnMapEnd() override { stack_.pop_back(); }

 private:
  struct Frame {
    JsonValue* container;
    std::optional<std::string> key;
  };

  std::string where(const YAML::Mark& mark) const {
    return fmt::format("{}: line {}", origin_, mark.line + 1);
  }

  void refuse_anchor(const YAML::Mark& mark, YAML::anchor_t anchor) const {
    if (anchor != 0)
      fail("{}: anchors and aliases are not accepted; write the value out", where(mark));
  }

  bool is_key() const {
    return !stack_.empty() && stack_.back().container->is_object() && !stack_.back().key;
  }

  JsonValue* put(const YAML::Mark& mark, JsonValue value, const std::string& text) {
    if (++nodes_ > limits_.nodes) fail("{}: more than {} values", where(mark), limits_.nodes);
    if (is_key()) {
      if (value.is_structured()) fail("{}: a key must be a plain word", where(mark));
      if (text == "<<") fail("{}: merge keys are not accepted; write the values out", where(mark));
      if (stack_.back().container->contains(text))
        fail("{}: the key \"{}\" appears twice", where(mark), text);
      stack_.back().key = text;
      return nullptr;
    }
    if (stack_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    JsonValue& parent = *stack_.back().container;
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    JsonValue& slot = parent[*stack_.back().key];
    stack_.back().key.reset();
    slot = std::move(value);
    return &slot;
  }

  void open(const YAML::Mark& mark, JsonValue container) {
    if (static_cast<int>(stack_.size()) >= limits_.depth)
      fail("{}: nested deeper than {} levels", where(mark), limits_.depth);
    stack_.push_back({put(mark, std::move(container), ""), std::nullopt});
  }

  std::string origin_;
  YamlLimits limits_;
  JsonValue root_;
  std::vector<Frame> stack_;
  int nodes_ = 0;
};

// A key on the same line as its value has at most 1024 characters, and an escape has up to ten.
constexpr size_t kShortKey = 100;

// Control characters need escapes, and --- or ... at the start of a line would mark a document.
void emit_text(YAML::Emitter& out, const std::string& text, bool quoted = false) {
  const bool control = std::ranges::any_of(text, [](unsigned char c) { return c < ' '; });
  const bool marker = text.starts_with("---") || text.starts_with("...");
  if (control || marker || quoted) out << YAML::DoubleQuoted;
  out << text;
}

void emit(YAML::Emitter& out, const JsonValue& value) {
  if (value.is_object()) {
    out << YAML::BeginMap;
    for (auto& [key, item] : value.items()) {
      if (key.size() > kShortKey) out << YAML::LongKey;
      out << YAML::Key;
      emit_text(out, key);
      out << YAML::Value;
      emit(out, item);
    }
    out << YAML::EndMap;
  } else if (value.is_array()) {
    bool scalars = std::none_of(value.begin(), value.end(),
                                [](const JsonValue& item) { return item.is_structured(); });
    out << (scalars ? YAML::Flow : YAML::Block) << YAML::BeginSeq;
    for (const JsonValue& item : value) emit(out, item);
    out << YAML::EndSeq;
  } else if (value.is_string()) {
    const auto& text = value.get_ref<const std::string&>();
    // Quotes keep the type of strings that YAML would read as something else.
    emit_text(out, text, !plain_scalar(text).is_string());
  } else if (value.is_null()) {
    out << YAML::Null;
  } else if (value.is_number_float() && !std::isfinite(value.get<double>())) {
    out << value.get<double>();  // JSON would write null
  } else {
    out << value.dump();
  }
}

}  // namespace

JsonValue parse_yaml(std::string_view text, const std::string& origin, const YamlLimits& limits) {
  if (text.size() > limits.bytes)
    fail("{}: {} bytes exceed the limit of {}", origin, text.size(), limits.bytes);
  // yaml-cpp passes on any bytes and takes zero bytes as a sign of UTF-16, but JSON values must be
  // UTF-8.
  if (!is_utf8(text) || text.find('\0') != std::string_view::npos)
    fail("{}: not valid UTF-8 text", origin);
  std::istringstream stream{std::string(text)};
  Builder builder(origin, limits);
  try {
    YAML::Parser parser(stream);
    parser.HandleNextDocument(builder);
    Builder second(origin, limits);
    if (parser.HandleNextDocument(second)) fail("{}: holds more than one document", origin);
  } catch (const YAML::Exception& error) {
    fail("{}: not valid YAML at line {}, column {}: {}", origin, error.mark.line + 1,
         error.mark.column + 1, error.msg);
  }
  return builder.take();
}

JsonValue read_yaml(const std::filesystem::path& file, const YamlLimits& limits) {
  return parse_yaml(read_file(file, limits.bytes), file.string(), limits);
}

std::string to_yaml(const JsonValue& value) {
  YAML::Emitter out;
  emit(out, value);
  return std::string(out.c_str()) + "\n";
}

}  // namespace quern
