#include "prompt/generation_config.h"

#include <nlohmann/json.hpp>

#include "base/error.h"

namespace quern::prompt {

JsonValue generation_config(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / "generation_config.json";
  if (!std::filesystem::exists(file)) return JsonValue::object();
  JsonValue config = read_json(file);
  if (!config.is_object()) fail("{}: must hold an object", file.string());
  return config;
}

JsonValue sampling_defaults(const JsonValue& generation_config, Meant meant) {
  JsonValue defaults = JsonValue::object();
  if (!generation_config.is_object()) return defaults;
  for (const char* key :
       {"repetition_penalty", "temperature", "top_k", "top_p", "min_p", "max_new_tokens"}) {
    const auto found = generation_config.find(key);
    if (found != generation_config.end() && !found->is_null()) defaults[key] = *found;
  }
  if (meant == Meant::not_by_default && defaults.contains("top_k") && defaults["top_k"] == 50)
    defaults.erase("top_k");
  return defaults;
}

}  // namespace quern::prompt
