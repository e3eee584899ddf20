// The tokens at which a model's answer ends.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "prompt/tokenizer.h"

namespace quern::prompt {

// Ascending, each once: eos_token_id of generation_config.json (of config.json where that file has
// none) and the eos_token of tokenizer_config.json. Models name different tokens in the two places
// and need both.
std::vector<int32_t> stop_ids(const std::filesystem::path& folder, const Tokenizer& tokenizer);

}  // namespace quern::prompt
