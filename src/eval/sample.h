// What a model says when it always takes the likeliest token: enough to see whether it still
// speaks.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "nn/weights.h"

namespace quern::eval {

// At most `count` tokens after the prompt; ends after one of `stops`. The whole model is in memory.
std::vector<int32_t> greedy(const std::shared_ptr<const nn::Source>& source,
                            std::span<const int32_t> prompt, int64_t count,
                            std::span<const int32_t> stops);

// Whether all but the first quarter repeats the same few tokens in the same order. Fewer than 16
// tokens are never called so.
bool is_degenerate(std::span<const int32_t> tokens);

}  // namespace quern::eval
