// Runs the steps of a recipe on the weights of one block.
#pragma once

#include <functional>
#include <vector>

#include "compress/method.h"
#include "compress/report.h"

namespace quern::compress {

// Steps run in order, and each sees the results of earlier steps. `judged`: whether the block's
// output depends on a task's weight; weights without effect on it are rounded to nearest. Losses go
// into the report.
std::vector<Outcome> run_steps(const Recipe& recipe, const BlockWork& block,
                               const std::function<bool(const Task&)>& judged, BlockReport& report);

}  // namespace quern::compress
