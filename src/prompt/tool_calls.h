// Calls of tools in conversations: OpenAI's messages hold the arguments of a call as JSON in a
// text, and templates want them as an object.
#pragma once

#include <string>

#include "base/json.h"

namespace quern::prompt {

// Changes the arguments of every call in `message` to an object, in place:
//   an object, or a text that is one   that object
//   absent, null or blank text         an empty object
//   anything else                      an empty object, and a warning that starts with `place`;
//                                      a client sends a call that a model broke again with each
//                                      turn
// A call is {"function": {"arguments": ...}} or {"arguments": ...}. An empty list of calls is
// removed. What is no list of objects stays as it is.
void open_arguments(JsonValue& message, const std::string& place);

}  // namespace quern::prompt
