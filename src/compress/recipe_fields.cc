#include "compress/recipe_fields.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "base/error.h"
#include "base/nearest.h"

namespace quern::compress {

void check_fields(const Json& json, const std::vector<std::string>& known) {
  if (!json.is_object()) fail("{}: expected fields with values", json.path());
  for (const std::string& key : json.keys()) {
    if (std::ranges::find(known, key) != known.end()) continue;
    fail("{}: there is no field \"{}\"{}; known: {}", json.path(), key, did_you_mean(key, known),
         fmt::join(known, ", "));
  }
}

std::vector<std::string> words(const Json& json, const std::string& key,
                               const std::vector<std::string>& otherwise) {
  if (!json.has(key)) return otherwise;
  const Json value = json.at(key);
  return value.is_string() ? std::vector{value.as<std::string>()}
                           : value.as<std::vector<std::string>>();
}

}  // namespace quern::compress
