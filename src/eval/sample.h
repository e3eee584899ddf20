// Greedy generation, to see whether a model still produces text.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "nn/weights.h"

namespace quern::eval {

// At most `count` tokens after the prompt; ends after one of `stops`. Needs the whole model in
// memory.
std::vector<int32_t> greedy(const std::shared_ptr<const nn::Source>& source,
                            std::span<const int32_t> prompt, int64_t count,
                            std::span<const int32_t> stops);

// Whether the tokens after the first quarter repeat a short sequence. False for fewer than 16
// tokens.
bool is_degenerate(std::span<const int32_t> tokens);

}  // namespace quern::eval
