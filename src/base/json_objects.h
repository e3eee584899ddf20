// Objects with many keys. An ordered object is searched from its start, so n single lookups or
// assignments take n^2 steps.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/json.h"

namespace quern {

// Adds a key that the object does not have.
void append(JsonValue& object, std::string key, JsonValue value);

// Every key with its value. Fails with the path when it is not an object.
std::vector<std::pair<std::string, Json>> entries(const Json& object);

}  // namespace quern
