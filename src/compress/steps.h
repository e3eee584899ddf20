// The steps of a recipe on the weights of one place.
#pragma once

#include <functional>
#include <vector>

#include "compress/method.h"
#include "compress/report.h"

namespace quern::compress {

// Steps come in their order, and each sees what those before it made of their weights; afterwards
// the weights are as the last step left them. `judged`: whether the block's output depends on a
// task's weight; those on which it does not are rounded to nearest. Losses go into the report.
std::vector<Outcome> run_steps(const Recipe& recipe, const BlockWork& block,
                               const std::function<bool(const Task&)>& judged, BlockReport& report);

}  // namespace quern::compress
