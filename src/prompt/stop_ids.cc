#include "prompt/stop_ids.h"

#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "base/json.h"

namespace quern::prompt {
namespace {

// The value of `key`, one id or a list; empty if the file or the key does not exist.
std::vector<int> ids_in(const std::filesystem::path& file, const char* section) {
  if (!std::filesystem::exists(file)) return {};
  JsonValue document = read_json(file);
  Json config(document, file.string());
  if (!config.is_object()) fail("{} must contain an object", file.string());
  if (section != nullptr && config.has(section)) config = config.at(section);
  if (!config.has("eos_token_id")) return {};
  Json ids = config.at("eos_token_id");
  return ids.is_array() ? ids.as<std::vector<int>>() : std::vector<int>{ids.as<int>()};
}

}  // namespace

std::vector<int32_t> stop_ids(const std::filesystem::path& folder, const Tokenizer& tokenizer) {
  std::vector<int> ids = ids_in(folder / "generation_config.json", nullptr);
  if (ids.empty()) ids = ids_in(folder / "config.json", nullptr);
  if (ids.empty()) ids = ids_in(folder / "config.json", "text_config");
  std::set<int32_t> stops(ids.begin(), ids.end());

  std::filesystem::path file = folder / "tokenizer_config.json";
  if (std::filesystem::exists(file)) {
    JsonValue document = read_json(file);
    Json config(document, file.string());
    if (config.has("eos_token")) {
      Json token = config.at("eos_token");
      std::string text =
          token.is_string() ? token.as<std::string>() : token.get<std::string>("content");
      if (auto id = tokenizer.id(text)) stops.insert(*id);
    }
  }
  return {stops.begin(), stops.end()};
}

}  // namespace quern::prompt
