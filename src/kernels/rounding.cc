// The limits of AutoRound's kernels.
#include "kernels/rounding.h"

#include <fmt/format.h>

namespace quern::kernels {

std::string rounding_refusal(const Rounding& rounding) {
  if (rounding.columns < 1) return "the matrix is empty";
  if (rounding.group < 1 || rounding.group % kRoundingGroupMultiple != 0)
    return fmt::format("groups of {} columns are not a multiple of {}", rounding.group,
                       kRoundingGroupMultiple);
  if (rounding.columns % rounding.group != 0)
    return fmt::format("{} columns do not divide into groups of {}", rounding.columns,
                       rounding.group);
  return {};
}

}  // namespace quern::kernels
