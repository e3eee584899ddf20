#include "compress/sparsegpt.h"

#include <fmt/format.h>

#include <charconv>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/threads.h"
#include "compress/grams.h"
#include "compress/method.h"
#include "compress/recipe_fields.h"
#include "kernels/compensate.h"
#include "ops/compensated.h"

namespace quern::compress {
namespace {

// "2:4": two of every four weights in a row become zero; "0:0": any.
void read_mask(const Json& json, SparseGptSettings& settings) {
  const auto text = json.get<std::string>("mask_structure", "0:0");
  const size_t colon = text.find(':');
  auto number = [&](std::string_view digits) {
    int64_t value = -1;
    const auto [end, error] = std::from_chars(digits.begin(), digits.end(), value);
    if (error != std::errc() || end != digits.end() || value < 0 || value > 1024)
      fail("{}: mask_structure is \"{}\"; expected \"2:4\", or \"0:0\" for none", json.path(),
           text);
    return value;
  };
  if (colon == std::string::npos) number("");
  settings.zeros = number(std::string_view(text).substr(0, colon));
  settings.of = number(std::string_view(text).substr(colon + 1));
  if (settings.zeros > settings.of || (settings.of > 0) != (settings.zeros > 0)) number("");
  if (settings.of > kernels::kMaxPattern ||
      (settings.of > 0 && settings.hessian.block_size % settings.of != 0))
    fail("{}: mask_structure {}: patterns have at most {} columns and divide block_size {}",
         json.path(), text, kernels::kMaxPattern, settings.hessian.block_size);
}

void read(const Json& json, Step& step) {
  SparseGptSettings settings{.hessian = read_hessian(json)};
  for (const char* key : {"sparsity_profile", "owl_m", "owl_lmbda"}) {
    if (json.has(key)) fail("{}: {} is not supported", json.path(), key);
  }
  if (json.get<bool>("preserve_sparsity_mask", false))
    fail("{}: preserve_sparsity_mask is not supported", json.path());
  if (json.at("sparsity").is_array())
    fail("{}: a sparsity for each layer is not supported; state one number", json.path());
  settings.share = json.get<double>("sparsity");
  if (!(settings.share > 0 && settings.share < 1))
    fail("{}: sparsity is {}; expected a number between 0 and 1", json.path(), settings.share);
  read_mask(json, settings);
  step.targets = words(json, "targets", {"Linear"});
  step.settings = settings;
}

void write(const Step& step, JsonValue& fields) {
  const auto& settings = step.as<SparseGptSettings>();
  fields["sparsity"] = settings.share;
  fields["mask_structure"] = fmt::format("{}:{}", settings.zeros, settings.of);
  fields["targets"] = step.targets;
  fields["ignore"] = step.ignore;
  write_hessian(settings.hessian, fields);
}

std::string text(const Step& step) {
  const auto& settings = step.as<SparseGptSettings>();
  std::string text = fmt::format("{:g}% of the weights become zero", 100 * settings.share);
  if (settings.of > 0) text += fmt::format(", {} of every {}", settings.zeros, settings.of);
  return text;
}

// Patterns are cut out of blocks of columns.
std::string refusal(const Step& step, int64_t columns, const quant::Scheme&) {
  const auto& settings = step.as<SparseGptSettings>();
  if (settings.of == 0 || columns % settings.of == 0) return "";
  return fmt::format("{} columns do not divide into patterns of {}", columns, settings.of);
}

// The matrices of the tasks of one input become pruned ones, of the checkpoint's dtype.
void prune(const SparseGptSettings& settings, int64_t windows, SharedInput& input,
           SolvedMatrices& report) {
  std::vector<std::vector<Tensor>> made;
  for (const Task& task : input.tasks) made.push_back(task.weight.dense()->all());
  std::vector<Solved> solved(static_cast<size_t>(input.grams->matrices()), Solved::without_tokens);
  parallel_for(std::ssize(solved), [&](int64_t matrix) {
    const auto m = static_cast<size_t>(matrix);
    const Tensor gram = input.grams->take_scaled(matrix, windows, input.tasks[0].modules[m]);
    if (!gram.defined()) return;
    const double dampening = settings.hessian.dampening;
    const ops::InverseFactor factor = ops::inverse_factor(gram, dampening, /*by_activation=*/false);
    solved[m] = solved_by(factor, dampening);
    for (std::vector<Tensor>& of_task : made)
      of_task[m] = ops::pruned(of_task[m], factor, {settings.share, settings.zeros, settings.of},
                               {.block = settings.hessian.block_size})
                       .weight;
  });
  for (size_t i = 0; i < made.size(); ++i) {
    const Task& task = input.tasks[i];
    task.weight.become(std::make_shared<ops::DenseStack>(std::move(made[i])));
    for (size_t m = 0; m < solved.size(); ++m) report.add(task.modules[m], solved[m]);
  }
}

Results run(const Step& step, const BlockWork& work) {
  const auto& settings = step.as<SparseGptSettings>();
  SolvedMatrices report;
  for (SharedInput& input : gather_grams(work)) prune(settings, work.input.count(), input, report);
  return {.warnings = report.warnings("not pruned by its inputs")};
}

Footprint footprint(const Step&, const CompressOptions&) { return {.grams = GramsOf::all}; }

}  // namespace

const Method& sparse_gpt_method() {
  static const Method kMethod = {
      .modifier = "SparseGPTModifier",
      .schemes = Schemes::none,
      .needs_data = true,
      .fields = {"sparsity", "sparsity_profile", "mask_structure", "owl_m", "owl_lmbda", "targets",
                 "ignore", "block_size", "dampening_frac", "preserve_sparsity_mask"},
      .read = read,
      .write = write,
      .text = text,
      .refusal = refusal,
      .footprint = footprint,
      .run = run};
  return kMethod;
}

}  // namespace quern::compress
