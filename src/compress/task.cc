#include "compress/task.h"

#include <algorithm>

namespace quern::compress {

int64_t matrices_of(const std::vector<Task>& tasks) {
  int64_t matrices = 0;
  for (const Task& task : tasks) matrices += task.weight.matrices();
  return matrices;
}

std::vector<nn::Weight> weights_of(const std::vector<Task>& tasks) {
  std::vector<nn::Weight> weights;
  for (const Task& task : tasks) weights.push_back(task.weight);
  return weights;
}

std::vector<Task> tasks_of(const std::vector<nn::LinearSite>& sites, const Plan& plan) {
  std::vector<Task> tasks;
  for (const nn::LinearSite& site : sites) {
    const Verdict* verdict = plan.quantized(site.name);
    if (!verdict) continue;
    auto known =
        std::ranges::find_if(tasks, [&](const Task& task) { return task.weight.is(site.weight); });
    if (known == tasks.end()) {
      tasks.push_back({site.weight, site.weight.dense()->all(), *verdict->scheme, verdict,
                       site.input, site.source, std::vector<std::string>(site.weight.matrices())});
      known = tasks.end() - 1;
    }
    known->modules[site.matrix] = site.name;
  }
  return tasks;
}

}  // namespace quern::compress
