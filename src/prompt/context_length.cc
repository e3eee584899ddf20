#include "prompt/context_length.h"

#include <nlohmann/json.hpp>
#include <string>

namespace quern::prompt {
namespace {

int64_t integer(const JsonValue& object, const char* key, int64_t otherwise) {
  const auto found = object.find(key);
  return found != object.end() && found->is_number_integer() ? found->get<int64_t>() : otherwise;
}

// Null if there is none.
const JsonValue* rope_of(const JsonValue& text) {
  for (const char* key : {"rope_parameters", "rope_scaling"})
    if (const auto found = text.find(key); found != text.end() && found->is_object())
      return &*found;
  return nullptr;
}

}  // namespace

int64_t context_length(const JsonValue& config) {
  if (!config.is_object()) return 0;
  const auto nested = config.find("text_config");
  const JsonValue& text = nested != config.end() && nested->is_object() ? *nested : config;
  const int64_t positions = integer(text, "max_position_embeddings", 0);
  const JsonValue* rope = rope_of(text);
  if (!rope) return positions;
  std::string type;
  for (const char* key : {"type", "rope_type"})
    if (const auto found = rope->find(key); found != rope->end() && found->is_string())
      type = *found;
  const auto factor = rope->find("factor");
  if (factor == rope->end() || !factor->is_number() || type == "llama3" || type == "longrope" ||
      type == "su")
    return positions;
  const int64_t base =
      type == "yarn" ? integer(*rope, "original_max_position_embeddings", positions) : positions;
  const double scaled = static_cast<double>(base) * factor->get<double>();
  return scaled > 0 && scaled < 1e12 ? static_cast<int64_t>(scaled) : positions;
}

}  // namespace quern::prompt
