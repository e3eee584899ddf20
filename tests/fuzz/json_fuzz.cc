// Any bytes give a typed error, or a document that can be written and read back unchanged.
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string_view>

#include "base/error.h"
#include "base/json.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  quern::JsonValue value;
  try {
    value = quern::parse_json({reinterpret_cast<const char*>(data), size}, "input");
  } catch (const quern::Error&) {
    return 0;
  }
  if (quern::parse_json(quern::to_text(value), "again") != value) std::abort();
  return 0;
}
