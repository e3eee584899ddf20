// What the kernels cannot do, asked of every linear of a recipe before any work.
#pragma once

#include <vector>

#include "compress/resolve.h"

namespace quern::compress {

// Fails with Exit::infeasible, naming the first linear and the group sizes that work for it, when
// the kernels cannot multiply what it would become, or cannot tune it.
void check_limits(const Recipe& recipe, const std::vector<LinearInfo>& linears,
                  const std::vector<Verdict>& verdicts);

}  // namespace quern::compress
