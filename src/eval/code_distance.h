// How far the codes of an artifact may be from its source, going by how it says that it was made.
#pragma once

#include "checkpoint/checkpoint.h"

namespace quern::eval {

// In codes. AutoRound rounds w / s + V, and V is a sum of steps that decay linearly from lr to 0:
// |V| <= lr (iters + 1) / 2, to which rounding adds 1/2. That is `usual`, 1, at the default lr of
// 1 / iters; a larger lr is looked for in the recipe.yaml that llm-compressor and compress leave in
// the folder.
double code_distance(const checkpoint::Checkpoint& artifact, double usual);

}  // namespace quern::eval
