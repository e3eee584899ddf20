// Objects of any number of keys. An ordered object is searched from its start, so that n keys that
// are looked up or assigned one by one take n^2 steps.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/json.h"

namespace quern {

// Adds a key that the object does not have yet.
void append(JsonValue& object, std::string key, JsonValue value);

// Every key with its value. Fails with the path when it is no object.
std::vector<std::pair<std::string, Json>> entries(const Json& object);

}  // namespace quern
