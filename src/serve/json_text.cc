#include "serve/json_text.h"

#include <fmt/format.h>

#include <cmath>

#include "base/utf8.h"

namespace quern::serve {
namespace {

void append_escaped(std::string& out, char c) {
  switch (c) {
    case '"':
      out += "\\\"";
      return;
    case '\\':
      out += "\\\\";
      return;
    case '\n':
      out += "\\n";
      return;
    case '\r':
      out += "\\r";
      return;
    case '\t':
      out += "\\t";
      return;
    case '\b':
      out += "\\b";
      return;
    case '\f':
      out += "\\f";
      return;
    default:
      fmt::format_to(std::back_inserter(out), "\\u{:04x}", static_cast<unsigned>(c));
  }
}

bool needs_escape(char c) { return static_cast<unsigned char>(c) < 0x20 || c == '"' || c == '\\'; }

// Length of the valid character at the front; 0 if there is none.
size_t character(std::string_view text) {
  for (size_t size = 1; size <= 4 && size <= text.size(); ++size)
    if (is_utf8(text.substr(0, size))) return size;
  return 0;
}

std::string repaired(std::string_view text) {
  std::string result;
  while (!text.empty()) {
    const size_t size = character(text);
    result += size ? text.substr(0, size) : "\xEF\xBF\xBD";
    text.remove_prefix(size ? size : 1);
  }
  return result;
}

}  // namespace

void append_json(std::string& out, std::string_view text) {
  if (!is_utf8(text)) return append_json(out, std::string_view(repaired(text)));
  out += '"';
  size_t begin = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (!needs_escape(text[i])) continue;
    out.append(text.substr(begin, i - begin));
    append_escaped(out, text[i]);
    begin = i + 1;
  }
  out.append(text.substr(begin));
  out += '"';
}

void append_json(std::string& out, double value) {
  if (!std::isfinite(value)) value = -9999.0;
  const size_t begin = out.size();
  fmt::format_to(std::back_inserter(out), "{}", value);
  if (out.find_first_of(".e", begin) == std::string::npos) out += ".0";
}

}  // namespace quern::serve
