#include "compress/memory.h"

#include <algorithm>
#include <map>
#include <set>

#include "base/error.h"
#include "compress/grams.h"
#include "compress/method.h"
#include "compress/samples.h"
#include "tensor/machine_memory.h"

namespace quern::compress {
namespace {

constexpr int64_t kBytesOfNumber = 4;                    // fp32, in a pass
constexpr double kBytesOfCode = 0.5, kBytesOfScale = 5;  // scale and zero point

// For each token: a linear's output, the results of elementwise functions and the delta rule, and
// gradients. tests/compress/memory_test.cc compares the estimate with a job.
constexpr int64_t kNumbersOfRow = 3;

// The size of one block or draft layer.
struct Size {
  double weights = 0;                 // bytes
  std::set<std::string> inputs = {};  // inputs whose Gram matrices are included in `weights`
  int64_t pair_numbers = 0;           // fp32 numbers for each pair of token and expert
  int64_t token_numbers = 0;
};

// Between the products of an expert: gate and up keep an output and its gradient, down its input in
// two forms. All have the expert's inner width; outputs of the hidden width are summed by groups of
// experts.
int64_t numbers_of_pair(int64_t rows, int64_t columns) { return 2 * std::min(rows, columns); }

// "model.layers.7" for a matrix in block 7; otherwise the part before the first dot.
std::string place_of(const std::string& name, const std::string& blocks) {
  const size_t begin = name.starts_with(blocks + ".") ? blocks.size() + 1 : 0;
  return name.substr(0, name.find('.', begin));
}

Footprint footprint_of(const Step& step, const CompressOptions& options) {
  return step.method->footprint ? step.method->footprint(step, options) : Footprint();
}

// Whether a step that works on the linear needs the Gram matrix of its input.
bool needs_gram(const nn::LinearSite& site, const Verdict& verdict, const Recipe& recipe,
                const CompressOptions& options) {
  for (size_t i = 0; i < recipe.steps.size(); ++i) {
    if (!works_on(recipe.steps[i], i, verdict)) continue;
    const GramsOf grams = footprint_of(recipe.steps[i], options).grams;
    if (grams == GramsOf::all || (grams == GramsOf::produced && !site.producer.empty()))
      return true;
  }
  return false;
}

// Codes and scales of a matrix, and the largest state that a step adds.
double bytes_while_worked_on(const nn::LinearSite& site, const Verdict& verdict,
                             const Recipe& recipe, const CompressOptions& options) {
  if (!verdict.scheme) return 0;
  const int64_t rows = site.weight.rows(), columns = site.weight.columns();
  const auto numbers = static_cast<double>(rows * columns),
             groups = static_cast<double>(rows * verdict.scheme->groups(columns));
  double state = 0;
  for (size_t i = 0; i < recipe.steps.size(); ++i) {
    if (!works_on(recipe.steps[i], i, verdict)) continue;
    const Footprint footprint = footprint_of(recipe.steps[i], options);
    state =
        std::max(state, numbers * footprint.bytes_of_weight + groups * footprint.bytes_of_group);
  }
  return numbers * kBytesOfCode + groups * kBytesOfScale + state;
}

std::map<std::string, Size> sizes_of_places(const nn::Model& model, const nn::Weights& root,
                                            const std::vector<nn::LinearSite>& sites,
                                            const Plan& plan, const Recipe& recipe,
                                            const CompressOptions& options) {
  std::map<std::string, Size> places;
  const std::string blocks = model.blocks_path(root);
  for (size_t i = 0; i < sites.size(); ++i) {
    const nn::LinearSite& site = sites[i];
    if (!site.name.starts_with(blocks + ".") && site.role != nn::Role::draft) continue;
    Size& size = places[place_of(site.name, blocks)];
    const Verdict& verdict = plan.verdicts[i];
    size.weights += bytes_while_worked_on(site, verdict, recipe, options);
    if (verdict.scheme && needs_gram(site, verdict, recipe, options) &&
        size.inputs.insert(site.input).second)
      size.weights +=
          static_cast<double>(Grams::bytes(site.weight.columns()) * site.weight.matrices());
    const int64_t rows = site.weight.rows(), columns = site.weight.columns();
    if (site.weight.matrices() == 1)
      size.token_numbers += kNumbersOfRow * rows;
    else if (site.matrix == 0)
      size.pair_numbers += numbers_of_pair(rows, columns);
  }
  return places;
}

// The most samples in one pass of any step that uses samples.
int64_t samples_at_once(const Recipe& recipe, const CompressOptions& options) {
  int64_t most = 1;
  for (const Step& step : recipe.steps)
    most = std::max(most, footprint_of(step, options).samples_at_once);
  return most;
}

}  // namespace

WindowSizes WindowSizes::of(const Calibration& calibration) {
  WindowSizes sizes;
  for (const auto& window : calibration.windows) {
    ++sizes.windows;
    sizes.tokens += std::ssize(window);
    sizes.longest = std::max(sizes.longest, std::ssize(window));
  }
  return sizes;
}

MemoryNeed memory_need(const nn::Model& model, const nn::Weights& root,
                       const std::vector<nn::LinearSite>& sites, const Plan& plan,
                       const Recipe& recipe, const WindowSizes& sizes,
                       const CompressOptions& options) {
  MemoryNeed need;
  const int64_t pass_tokens =
      std::min(sizes.windows, samples_at_once(recipe, options)) * sizes.longest;
  double more = 0;  // bytes of each number that a step keeps
  for (const Step& step : recipe.steps)
    more = std::max(more, footprint_of(step, options).bytes_of_activation);
  need.activations =
      2 * Samples::bytes(sizes.tokens, model.hidden() + model.shared_width()) +
      static_cast<int64_t>(more * static_cast<double>(sizes.tokens * model.hidden()));
  for (const auto& [place, size] : sizes_of_places(model, root, sites, plan, recipe, options)) {
    need.weights = std::max(need.weights, static_cast<int64_t>(size.weights));
    const int64_t numbers = size.token_numbers + model.experts_per_token() * size.pair_numbers;
    need.pass = std::max(need.pass, kBytesOfNumber * numbers * pass_tokens);
  }
  return need;
}

std::string to_text(const MemoryNeed& need) {
  return fmt::format("{}: {} for activations, {} for a block's weights, {} for a pass",
                     bytes_text(need.total()), bytes_text(need.activations),
                     bytes_text(need.weights), bytes_text(need.pass));
}

void check_memory(const MemoryNeed& need, int64_t available) {
  if (need.total() <= available) return;
  fail(Exit::infeasible,
       "the job needs {}, but only {} are available; use fewer or shorter calibration windows "
       "(--nsamples, --seqlen) or a smaller batch size",
       to_text(need), bytes_text(available));
}

}  // namespace quern::compress
