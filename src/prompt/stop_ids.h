// The tokens that end a model's answer.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "base/json.h"
#include "prompt/tokenizer.h"

namespace quern::prompt {

// Ascending, each once: eos_token_id of generation_config.json (of config.json where that file has
// none) and the eos_token of tokenizer_config.json. Models name different tokens in the two places
// and need both. Files that are not there are null or empty objects.
std::vector<int32_t> stop_ids(const JsonValue& generation_config, const JsonValue& config,
                              const JsonValue& tokenizer_config, const Tokenizer& tokenizer);
// The same for a folder of which no checkpoint is open.
std::vector<int32_t> stop_ids(const std::filesystem::path& folder, const Tokenizer& tokenizer);

}  // namespace quern::prompt
