// GPTQ (Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
// Transformers", 2022): rounds one column after another and adjusts the remaining columns to
// compensate for the error.
#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"
#include "base/threads.h"
#include "compress/act_order.h"
#include "compress/compress.h"
#include "compress/grams.h"
#include "compress/hessian_settings.h"
#include "compress/method.h"
#include "compress/rtn.h"
#include "ops/compensated.h"

namespace quern::compress {
namespace {

struct GptqSettings {
  HessianSettings hessian;
  ActOrder order = ActOrder::by_activation;  // for schemes of an earlier step
};

// The modifier's actorder applies to groups without one; its default is static.
void read(const Json& json, Step& step) {
  const bool written = json.value().contains("actorder");
  const ActOrder order = written ? act_order_of(json) : ActOrder::by_activation;
  step.settings = GptqSettings{read_hessian(json), order};
  for (SchemeGroup& group : step.groups) {
    if (json.has("actorder") && group.act_order != ActOrder::none && group.act_order != order)
      fail("{}: the actorder differs from that of {}; state one of them", json.path(), group.name);
    if (group.act_order == ActOrder::none) group.act_order = order;
  }
}

void write(const Step& step, JsonValue& fields) {
  write_hessian(step.as<GptqSettings>().hessian, fields);
  // Groups of one modifier may differ, so each states its own. Without this null, GPTQ would apply
  // static to the groups that state none.
  fields["actorder"] = nullptr;
}

std::string text(const Step& step) {
  const HessianSettings& settings = step.as<GptqSettings>().hessian;
  return fmt::format("blocks of {} columns, dampening {}", settings.block_size, settings.dampening);
}

// From this share of zeros on a weight counts as pruned, and its zeros stay: what llm-compressor
// does up to its version 0.12.
constexpr double kPrunedShare = 0.05;

double share_of_zeros(const Tensor& weight) {
  return weight.eq(0).sum().item<double>() / static_cast<double>(weight.numel());
}

// Rounds the matrices of the tasks of one input: those of one number share a factor.
class Solver {
 public:
  Solver(const Step& step, const BlockWork& work, SharedInput& input)
      : step_(step),
        settings_(step.as<GptqSettings>()),
        windows_(work.input.count()),
        input_(input),
        solved_(static_cast<size_t>(input.grams->matrices())) {
    // Scales are chosen before any error moves a weight.
    for (const Task& task : input.tasks) {
      outcomes_.push_back(nearest(task, step, work.options.format));
      outcomes_.back().bound = {};
    }
  }

  std::vector<Outcome> run(SolvedMatrices& report) {
    parallel_for(std::ssize(solved_),
                 [&](int64_t matrix) { solved_[static_cast<size_t>(matrix)] = solve(matrix); });
    for (size_t matrix = 0; matrix < solved_.size(); ++matrix)
      for (const Task& task : input_.tasks) report.add(task.modules[matrix], solved_[matrix]);
    return std::move(outcomes_);
  }

 private:
  Solved solve(int64_t matrix) {
    const Tensor gram = input_.grams->take_scaled(
        matrix, windows_, input_.tasks[0].modules[static_cast<size_t>(matrix)]);
    if (!gram.defined()) return Solved::without_tokens;
    const double dampening = settings_.hessian.dampening;
    // Schemes of one input may order the columns in two ways.
    std::optional<ops::InverseFactor> factors[2];
    Solved solved = Solved::well;
    for (size_t i = 0; i < input_.tasks.size(); ++i) {
      const Task& task = input_.tasks[i];
      const ActOrder order = step_.groups.empty() ? settings_.order : task.verdict->act_order;
      const bool by_activation = order == ActOrder::by_activation;
      auto& factor = factors[by_activation ? 1 : 0];
      if (!factor) factor = ops::inverse_factor(gram, dampening, by_activation);
      solved = solved_by(*factor, dampening);
      const Tensor weight = task.weight.dense()->matrix(matrix);
      quant::QuantWeight& made = outcomes_[i].matrices[static_cast<size_t>(matrix)];
      made = ops::compensated_codes(weight, *factor, made,
                                    {.block = settings_.hessian.block_size,
                                     .keep_zeros = share_of_zeros(weight) >= kPrunedShare})
                 .weight;
    }
    return solved;
  }

  const Step& step_;
  const GptqSettings& settings_;
  int64_t windows_;
  SharedInput& input_;
  std::vector<Outcome> outcomes_;  // of its tasks
  std::vector<Solved> solved_;     // of each matrix
};

Results run(const Step& step, const BlockWork& work) {
  Results results;
  SolvedMatrices report;
  for (SharedInput& input : gather_grams(work))
    std::ranges::move(Solver(step, work, input).run(report), std::back_inserter(results.outcomes));
  results.warnings = report.warnings("rounded to nearest");
  return results;
}

void from_options(const RecipeOptions&, Step& step) {
  step.settings = GptqSettings();
  for (SchemeGroup& group : step.groups) group.act_order = ActOrder::by_activation;
}

Footprint footprint(const Step&, const CompressOptions&) { return {.grams = GramsOf::all}; }

}  // namespace

const Method& gptq_method() {
  static const Method kMethod = {.modifier = "GPTQModifier",
                                 .option = "gptq",
                                 .schemes = Schemes::earlier,
                                 .needs_data = true,
                                 .act_order = true,
                                 .fields = {"block_size", "dampening_frac", "actorder"},
                                 .read = read,
                                 .write = write,
                                 .from_options = from_options,
                                 .text = text,
                                 .footprint = footprint,
                                 .run = run};
  return kMethod;
}

}  // namespace quern::compress
