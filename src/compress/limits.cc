#include "compress/limits.h"

#include <fmt/ranges.h>

#include <string>

#include "base/error.h"
#include "compress/method.h"
#include "ops/packed_stack.h"

namespace quern::compress {
namespace {

// Empty, or why these steps cannot quantize the linear with this scheme.
std::string refusal(const LinearInfo& linear, const quant::Scheme& scheme,
                    const std::vector<const Step*>& steps) {
  std::string why = ops::packed_refusal(scheme, linear.rows, linear.columns);
  for (const Step* step : steps)
    if (why.empty() && step->method->refusal)
      why = step->method->refusal(*step, linear.columns, scheme);
  return why;
}

std::string groups_that_work(const LinearInfo& linear, quant::Scheme scheme,
                             const std::vector<const Step*>& steps) {
  std::vector<std::string> sizes;
  for (const int64_t size : {32, 64, 128, 256, -1}) {
    scheme.group_size = size;
    if (!refusal(linear, scheme, steps).empty()) continue;
    sizes.push_back(size > 0 ? std::to_string(size)
                             : fmt::format("-1 for the whole row ({})", linear.columns));
  }
  if (sizes.empty()) return "no group size works, so the recipe must ignore it";
  return fmt::format("ignore it or choose a group size that works: {}", fmt::join(sizes, ", "));
}

}  // namespace

void check_limits(const Recipe& recipe, const std::vector<LinearInfo>& linears,
                  const std::vector<Verdict>& verdicts) {
  std::string first;
  int more = -1;
  for (size_t i = 0; i < linears.size(); ++i) {
    if (!verdicts[i].scheme) continue;
    std::vector<const Step*> steps = {&recipe.steps[verdicts[i].step]};
    if (verdicts[i].pruned_by) steps.push_back(&recipe.steps[*verdicts[i].pruned_by]);
    const std::string why = refusal(linears[i], *verdicts[i].scheme, steps);
    if (why.empty()) continue;
    if (++more == 0)
      first = fmt::format("{}: {}; {}", linears[i].name, why,
                          groups_that_work(linears[i], *verdicts[i].scheme, steps));
  }
  if (more < 0) return;
  fail(Exit::infeasible, "recipe: {}{}", first,
       more > 0 ? fmt::format(" ({} more linears have the same or a similar problem)", more) : "");
}

}  // namespace quern::compress
