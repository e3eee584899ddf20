#include "checkpoint/config_patch.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/error.h"

namespace quern::checkpoint {
namespace {

struct Member {
  std::string key;
  size_t key_begin, value_begin, value_end;
};

// Scans text that is known to be valid JSON.
class Scanner {
 public:
  explicit Scanner(std::string_view text) : text_(text) {}

  std::vector<Member> members() {
    std::vector<Member> found;
    skip_space();
    ++at_;  // {
    for (;;) {
      skip_space();
      if (text_[at_] == '}') return found;
      Member member;
      member.key_begin = at_;
      skip_string();
      member.key = JsonValue::parse(text_.substr(member.key_begin, at_ - member.key_begin))
                       .get<std::string>();
      skip_space();
      ++at_;  // :
      skip_space();
      member.value_begin = at_;
      skip_value();
      member.value_end = at_;
      found.push_back(std::move(member));
      skip_space();
      if (text_[at_] == ',') ++at_;
    }
  }

  size_t position() const { return at_; }

 private:
  void skip_space() { at_ = std::min(text_.find_first_not_of(" \t\r\n", at_), text_.size()); }

  void skip_string() {
    for (++at_; text_[at_] != '"'; ++at_)
      if (text_[at_] == '\\') ++at_;
    ++at_;
  }

  void skip_value() {
    int depth = 0;
    do {
      const char c = text_[at_];
      if (c == '"') {
        skip_string();
      } else if (c == '{' || c == '[') {
        ++depth, ++at_;
      } else if (c == '}' || c == ']') {
        --depth, ++at_;
      } else if (c == ',' || c == ':' || c == ' ' || c == '\t' || c == '\r' || c == '\n') {
        ++at_;
      } else {
        at_ = text_.find_first_of(",]} \t\r\n", at_);
      }
    } while (depth > 0);
  }

  std::string_view text_;
  size_t at_ = 0;
};

// The text before the first key: "\n  ", or empty if the object is on one line.
std::string separator_of(std::string_view text, const std::vector<Member>& members) {
  if (members.empty()) return "\n  ";
  size_t begin = members.front().key_begin;
  while (text[begin - 1] != '{') --begin;
  return std::string(text.substr(begin, members.front().key_begin - begin));
}

// The lines of the value are indented like the key, plus one step for each level.
std::string value_text(const JsonValue& value, const std::string& separator) {
  const size_t newline = separator.rfind('\n');
  if (newline == std::string::npos) return value.dump(-1, ' ', false);
  const std::string indent = separator.substr(newline + 1);
  const bool tabs = indent.starts_with('\t');
  std::string lines =
      value.dump(std::max<int>(1, static_cast<int>(indent.size())), tabs ? '\t' : ' ', false);
  std::string text;
  for (char c : lines) {
    text += c;
    if (c == '\n') text += indent;
  }
  return text;
}

}  // namespace

std::string with_key(std::string_view text, std::string_view key, const JsonValue& value,
                     const std::string& origin) {
  if (!parse_json(text, origin).is_object()) fail("{}: must be an object", origin);
  Scanner scanner(text);
  const std::vector<Member> members = scanner.members();
  const std::string separator = separator_of(text, members), written = value_text(value, separator);
  std::string result(text);
  for (const Member& member : members)
    if (member.key == key)
      return result.replace(member.value_begin, member.value_end - member.value_begin, written);

  const std::string entry = JsonValue(key).dump() + ": " + written;
  auto by_key = [](const Member& a, const Member& b) { return a.key < b.key; };
  auto next =
      std::find_if(members.begin(), members.end(), [&](const Member& m) { return m.key > key; });
  if (members.empty()) return result.insert(scanner.position(), separator + entry + "\n");
  if (next != members.end() && std::is_sorted(members.begin(), members.end(), by_key))
    return result.insert(next->key_begin, entry + "," + (separator.empty() ? " " : separator));
  return result.insert(members.back().value_end,
                       "," + (separator.empty() ? " " : separator) + entry);
}

}  // namespace quern::checkpoint
