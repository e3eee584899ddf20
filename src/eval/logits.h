// Writes a model's logits to a file, for comparison with other programs.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

#include "eval/score.h"
#include "nn/weights.h"

namespace quern::eval {

// Reads lists of token ids from a JSON file: [[1, 2, 3], [4, 5]].
std::vector<std::vector<int32_t>> read_token_lists(const std::filesystem::path& file);

// A safetensors file with a tensor logits.<i> for each list, fp32 [tokens, vocabulary]: row t holds
// the logits after token t. Written in pieces, to bound memory for large vocabularies.
void write_logits(std::shared_ptr<const nn::Source> model,
                  const std::vector<std::vector<int32_t>>& lists, const std::filesystem::path& file,
                  const ScoreOptions& options = {});

}  // namespace quern::eval
