// Tool calls in conversations: OpenAI's messages have the arguments of a call as JSON in a string,
// but templates need an object.
#pragma once

#include <string>

#include "base/json.h"

namespace quern::prompt {

// Replaces the arguments of every call in `message` with an object:
//   an object, or JSON text of one     that object
//   absent, null or blank text         an empty object
//   anything else                      an empty object, and a warning that starts with `place`,
//                                      because a client resends a broken call of a model with each
//                                      turn
// A call is {"function": {"arguments": ...}} or {"arguments": ...}. An empty list of calls is
// removed. A value that is not a list of objects is unchanged.
void open_arguments(JsonValue& message, const std::string& place);

}  // namespace quern::prompt
