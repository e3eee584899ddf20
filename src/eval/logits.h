// A model's logits in a file, so that any other program can compare them with its own.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

#include "eval/score.h"
#include "nn/weights.h"

namespace quern::eval {

// Lists of token ids out of a JSON file: [[1, 2, 3], [4, 5]].
std::vector<std::vector<int32_t>> read_token_lists(const std::filesystem::path& file);

// A safetensors file with a tensor logits.<i> for each list, fp32 [tokens, vocabulary]: row t holds
// what the model expects after token t. Written piece by piece, however large the vocabulary.
void write_logits(std::shared_ptr<const nn::Source> model,
                  const std::vector<std::vector<int32_t>>& lists, const std::filesystem::path& file,
                  const ScoreOptions& options = {});

}  // namespace quern::eval
