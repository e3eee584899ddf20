#include "compress/steps.h"

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
  std::map<size_t, std::vector<Task>> tasks_of_step;
  for (const Task& task : block.tasks) tasks_of_step[task.verdict->step].push_back(task);
  std::vector<Outcome> outcomes;
  size_t seen = 0;  // outcomes whose weights are dequantized
  bool first_loss = true;
  for (const auto& [index, tasks] : tasks_of_step) {
    for (; seen < outcomes.size(); ++seen) become_dequantized(outcomes[seen]);
    const Step& step = recipe.steps[index];
    BlockWork work = block;
    work.tasks.clear();
    for (const Task& task : tasks) {
      if (judged(task))
        work.tasks.push_back(task);
      else
        outcomes.push_back(nearest(task, step, block.options.format));
    }
    if (work.tasks.empty()) continue;
    Results results = step.method->run(step, work);
    if (results.loss) add(*results.loss, std::exchange(first_loss, false), report);
    for (Outcome& outcome : results.outcomes) outcomes.push_back(std::move(outcome));
  }
  return outcomes;
}

}  // namespace quern::compress
