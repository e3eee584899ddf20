// Checks the limits of the kernels for every linear before any work.
#pragma once

#include <vector>

#include "compress/resolve.h"

namespace quern::compress {

// Fails with Exit::infeasible when the kernels cannot multiply by a quantized linear, or cannot
// tune it. Names the first such linear and the group sizes that work for it.
void check_limits(const Recipe& recipe, const std::vector<LinearInfo>& linears,
                  const std::vector<Verdict>& verdicts);

}  // namespace quern::compress
