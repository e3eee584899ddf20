// The first byte chooses a key, the rest is a document. A patched document has the key's new value
// and is otherwise unchanged.
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string_view>

#include "base/error.h"
#include "base/json.h"
#include "checkpoint/config_patch.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  quern::JsonValue before;
  try {
    before = quern::parse_json(text, "input");
  } catch (const quern::Error&) {
    return 0;
  }
  if (!before.is_object()) return 0;
  std::string key(1, static_cast<char>('a' + data[0] % 4));
  if (before.size() > 0 && data[0] % 8 == 7) key = before.begin().key();
  const quern::JsonValue value = {{"bits", 4}};
  const quern::JsonValue after =
      quern::parse_json(quern::checkpoint::with_key(text, key, value, "input"), "patched");
  if (after.at(key) != value) std::abort();
  if (after.size() != before.size() + (before.contains(key) ? 0 : 1)) std::abort();
  for (const auto& [name, old] : before.items())
    if (name != key && after.at(name) != old) std::abort();
  return 0;
}
