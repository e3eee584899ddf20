// Edits config.json as text, to keep everything else unchanged: order, unknown keys, spelling of
// numbers, indentation.
#pragma once

#include <string>
#include <string_view>

#include "base/json.h"

namespace quern::checkpoint {

// The JSON object `text` with its top-level `key` set to `value`. An existing value is replaced in
// place; a new key is inserted alphabetically if the others are sorted, otherwise at the end. The
// value gets the object's indentation. `origin` names the document in messages.
std::string with_key(std::string_view text, std::string_view key, const JsonValue& value,
                     const std::string& origin);

}  // namespace quern::checkpoint
