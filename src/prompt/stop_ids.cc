#include "prompt/stop_ids.h"

#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "prompt/generation_config.h"

namespace quern::prompt {
namespace {

// Ids under eos_token_id, one or a list of them; none without the key.
std::vector<int> ids_in(const Json& config) {
  if (!config.has("eos_token_id")) return {};
  const Json ids = config.at("eos_token_id");
  return ids.is_array() ? ids.as<std::vector<int>>() : std::vector<int>{ids.as<int>()};
}

JsonValue read_if_there(const std::filesystem::path& file) {
  return std::filesystem::exists(file) ? read_json(file) : JsonValue();
}

Json object_of(const JsonValue& document, const char* name) {
  static const JsonValue kNone = JsonValue::object();
  if (document.is_null()) return {kNone, name};
  if (!document.is_object()) fail("{} must hold an object", name);
  return {document, name};
}

}  // namespace

std::vector<int32_t> stop_ids(const JsonValue& generation_config, const JsonValue& config,
                              const JsonValue& tokenizer_config, const Tokenizer& tokenizer) {
  const Json model = object_of(config, "config.json"),
             texts = object_of(tokenizer_config, "tokenizer_config.json");
  std::vector<int> ids = ids_in(object_of(generation_config, "generation_config.json"));
  if (ids.empty()) ids = ids_in(model);
  if (ids.empty() && model.has("text_config")) ids = ids_in(model.at("text_config"));
  std::set<int32_t> stops(ids.begin(), ids.end());
  if (texts.has("eos_token")) {
    const Json token = texts.at("eos_token");
    const auto text =
        token.is_string() ? token.as<std::string>() : token.get<std::string>("content");
    if (const auto id = tokenizer.id(text)) stops.insert(*id);
  }
  return {stops.begin(), stops.end()};
}

std::vector<int32_t> stop_ids(const std::filesystem::path& folder, const Tokenizer& tokenizer) {
  return stop_ids(generation_config(folder), read_if_there(folder / "config.json"),
                  read_if_there(folder / "tokenizer_config.json"), tokenizer);
}

}  // namespace quern::prompt
