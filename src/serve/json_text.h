// JSON that is written many times a second, without a document in between.
#pragma once

#include <string>
#include <string_view>

namespace quern::serve {

// A JSON string with its quotes. Bytes that are not UTF-8 become U+FFFD.
void append_json(std::string& out, std::string_view text);
// A number as JSON has it; what is not finite becomes -9999.0, as vLLM prints logarithms of 0.
void append_json(std::string& out, double value);

inline std::string json_text(std::string_view text) {
  std::string out;
  append_json(out, text);
  return out;
}

}  // namespace quern::serve
