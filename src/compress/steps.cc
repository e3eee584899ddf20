#include "compress/steps.h"

#include <algorithm>
#include <iterator>
#include <map>

#include "compress/compress.h"
#include "compress/rtn.h"
#include "compress/write.h"

namespace quern::compress {
namespace {

void add(const Loss& loss, bool first, BlockReport& report) {
  if (first) report.loss_before = loss.before;
  report.loss_after = loss.after;
  report.best_iteration = loss.best_iteration;
}

}  // namespace

std::vector<Outcome> run_steps(const Recipe& recipe, const BlockWork& block,
                               const std::function<bool(const Task&)>& judged,
                               BlockReport& report) {
  // By step: the tasks that it rounds, and those that it prepares.
  std::map<size_t, std::vector<Task>> rounded, prepared;
  for (const Task& task : block.tasks) {
    rounded[task.verdict->step].push_back(task);
    if (task.verdict->pruned_by) prepared[*task.verdict->pruned_by].push_back(task);
  }
  std::vector<Outcome> outcomes;
  size_t seen = 0;  // outcomes whose weights are dequantized
  bool first_loss = true;
  for (size_t index = 0; index < recipe.steps.size(); ++index) {
    const Step& step = recipe.steps[index];
    const std::vector<Task>& tasks = rounds(*step.method) ? rounded[index] : prepared[index];
    for (; seen < outcomes.size(); ++seen) become_dequantized(outcomes[seen]);
    BlockWork work = block;
    work.tasks.clear();
    for (const Task& task : tasks) {
      if (judged(task))
        work.tasks.push_back(task);
      else if (rounds(*step.method))
        outcomes.push_back(nearest(task, step, block.options.format));
    }
    if (work.tasks.empty()) continue;
    Results results = step.method->run(step, work);
    if (results.loss) add(*results.loss, std::exchange(first_loss, false), report);
    std::ranges::move(results.warnings, std::back_inserter(report.warnings));
    std::ranges::move(results.outcomes, std::back_inserter(outcomes));
  }
  // Bounds refer to the checkpoint's matrix, and a prepared one is another.
  for (Outcome& outcome : outcomes)
    if (outcome.task.verdict->pruned_by) outcome.bound = {};
  return outcomes;
}

}  // namespace quern::compress
