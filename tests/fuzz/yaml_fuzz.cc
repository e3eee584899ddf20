// Any bytes give a typed error, or a document that can be written and read back unchanged.
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string_view>

#include "base/error.h"
#include "base/yaml.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  quern::JsonValue value;
  try {
    value = quern::parse_yaml({reinterpret_cast<const char*>(data), size}, "input");
  } catch (const quern::Error&) {
    return 0;
  }
  // As JSON text, in which infinities and NaN, never equal to themselves, are null.
  const quern::JsonValue again = quern::parse_yaml(quern::to_yaml(value), "again");
  if (quern::to_text(again) != quern::to_text(value)) std::abort();
  return 0;
}
