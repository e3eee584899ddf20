// The tokens that end a model's answer.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "prompt/tokenizer.h"

namespace quern::prompt {

// Ascending, without duplicates: eos_token_id of generation_config.json (of config.json if that
// file has none) and eos_token of tokenizer_config.json. Models state different tokens in the two
// places and need both.
std::vector<int32_t> stop_ids(const std::filesystem::path& folder, const Tokenizer& tokenizer);

}  // namespace quern::prompt
