// Tokens of many sequences in one pass of the model.
#pragma once

#include <vector>

#include "nn/pass.h"

namespace quern::engine {

// The passes of single sequences (nn::Pass::next, each with its place in the caches) one after
// another. If one has positions of three axes, all get them.
nn::Pass joined(const std::vector<nn::Pass>& parts);

}  // namespace quern::engine
