// Runs the steps of a recipe on the weights of one block.
#pragma once

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "compress/method.h"
#include "compress/report.h"

namespace quern::compress {

struct BlockResults {
  std::vector<Outcome> outcomes;
  std::set<std::string> changed;  // kept tensors with new values, of any step (Results::changed)
};

// Steps run in order, and each sees the results of earlier steps. `judged`: whether the block's
// output depends on a task's weight; weights without effect on it are rounded to nearest. Losses
// and warnings go into the report.
BlockResults run_steps(const Recipe& recipe, const BlockWork& block,
                       const std::function<bool(const Task&)>& judged, BlockReport& report);

}  // namespace quern::compress
