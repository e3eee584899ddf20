#include "compress/steps.h"

#include <algorithm>
#include <iterator>

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

// The weights of these tasks that have other stacks than before.
class Replaced {
 public:
  explicit Replaced(const std::vector<Task>& tasks) {
    for (const Task& task : tasks) before_.emplace_back(task.weight, task.weight.stack());
  }
  void add_to(std::vector<nn::Weight>& weights) const {
    for (const auto& [weight, stack] : before_)
      if (weight.stack() != stack) weights.push_back(weight);
  }

 private:
  std::vector<std::pair<nn::Weight, std::shared_ptr<ops::Stack>>> before_;
};

}  // namespace

BlockResults run_steps(const Recipe& recipe, const BlockWork& block,
                       const std::function<bool(const Task&)>& judged, BlockReport& report) {
  BlockResults all;
  std::vector<nn::Weight> rescaled;
  size_t seen = 0;  // outcomes whose weights are dequantized
  bool first_loss = true;
  for (size_t index = 0; index < recipe.steps.size(); ++index) {
    const Step& step = recipe.steps[index];
    for (; seen < all.outcomes.size(); ++seen) become_dequantized(all.outcomes[seen]);
    BlockWork work = block;
    work.step = index;
    work.tasks.clear();
    for (const Task& task : block.tasks) {
      if (!works_on(step, index, *task.verdict)) continue;
      if (judged(task))
        work.tasks.push_back(task);
      else if (task.verdict->step == index)
        all.outcomes.push_back(nearest(task, step, block.options.format));
    }
    if (work.tasks.empty()) continue;
    const Replaced replaced(work.tasks);
    Results results = step.method->run(step, work);
    if (step.method->schemes == Schemes::later || step.method->schemes == Schemes::all)
      replaced.add_to(rescaled);
    if (results.loss) add(*results.loss, std::exchange(first_loss, false), report);
    std::ranges::move(results.warnings, std::back_inserter(report.warnings));
    std::ranges::move(results.outcomes, std::back_inserter(all.outcomes));
    all.changed.insert(results.changed.begin(), results.changed.end());
  }
  // Bounds refer to the checkpoint's matrix, and a prepared one is another.
  for (Outcome& outcome : all.outcomes) {
    if (outcome.task.verdict->pruned_by) outcome.bound = {};
    if (std::ranges::any_of(rescaled, [&](const auto& w) { return w.is(outcome.task.weight); }))
      outcome.bound = {quant::Bound::Kind::rescaled};
  }
  return all;
}

}  // namespace quern::compress
