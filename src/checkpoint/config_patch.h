// config.json edited as text, so that whatever is not meant stays as it was: order, unknown keys,
// spelling of numbers, indentation.
#pragma once

#include <string>
#include <string_view>

#include "base/json.h"

namespace quern::checkpoint {

// The JSON object `text` with its top-level `key` set to `value`. An existing value is replaced
// where it stands; a new key goes to its place in the alphabet when the others are sorted, else to
// the end. The value is written with the object's own indentation. `origin` names the document in
// messages.
std::string with_key(std::string_view text, std::string_view key, const JsonValue& value,
                     const std::string& origin);

}  // namespace quern::checkpoint
