#include "compress/autoround.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/error.h"
#include "base/threads.h"
#include "compress/compress.h"
#include "compress/rtn.h"
#include "kernels/rounding.h"
#include "ops/rounding_stack.h"

namespace quern::compress {
namespace {

// Elements in one partial sum of squares.
constexpr int64_t kPiece = 64 * 1024;

using TunedStack = std::shared_ptr<ops::RoundingStack>;

double learning_rate(const AutoRoundSettings& settings) {
  return settings.lr.value_or(1.0 / settings.iters);
}

std::vector<TunedStack> start_rounding(const std::vector<Task>& tasks,
                                       const AutoRoundSettings& settings,
                                       const AutoRoundOptions& options) {
  ops::RoundingOptions rounding;
  rounding.iterations = settings.iters;
  rounding.lr = learning_rate(settings);
  rounding.minmax_lr = options.minmax_lr.value_or(rounding.lr);
  rounding.momentum = options.momentum;
  rounding.tune_minmax = options.tune_minmax;
  std::vector<TunedStack> started;
  for (const Task& task : tasks) {
    auto state =
        std::make_shared<ops::RoundingStack>(task.weight.dense()->all(), task.scheme, rounding);
    if (const auto matrix = state->not_finite())
      fail("{} holds NaN, infinity or weights too large for a scale in {}", task.modules[*matrix],
           at::toString(task.scheme.scale_dtype));
    task.weight.become(state);
    started.push_back(std::move(state));
  }
  return started;
}

// The forward pass of one micro-batch: the loss summed over its elements, and what the backward
// pass needs.
struct Forward {
  Tensor output, difference;
  double squared_error;
};

double squared_error(const Tensor& difference) {
  const int64_t count = difference.numel(), pieces = (count + kPiece - 1) / kPiece;
  const float* data = difference.const_data_ptr<float>();
  std::vector<double> sums(pieces);
  parallel_for(pieces, [&](int64_t i) {
    double sum = 0;
    for (int64_t j = i * kPiece; j < std::min(count, (i + 1) * kPiece); ++j)
      sum += static_cast<double>(data[j]) * data[j];
    sums[i] = sum;
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

Tensor difference_of(const Tensor& a, const Tensor& b) {
  Tensor out = at::empty(a.sizes(), at::kFloat);
  parallel_pieces(a.size(0), 256, [&](int64_t begin, int64_t end) {
    at::NoGradGuard no_grad;
    out.slice(0, begin, end).copy_(a.slice(0, begin, end) - b.slice(0, begin, end));
  });
  return out;
}

// Runs the block on the samples of the batch.
Forward run(const BlockWork& work, const std::vector<int64_t>& batch) {
  at::AutoGradMode with_grad(true);
  nn::Pass pass = work.input.pass(batch);
  Tensor output = work.block(work.input.read(batch), pass);
  Tensor difference = difference_of(output.detach(), work.target.read(batch));
  return {output, difference, squared_error(difference)};
}

// Only the sign of a gradient is used, so any scale of the loss works; this factor makes it a mean.
void send_back(const Forward& forward, double elements) {
  if (!forward.output.requires_grad()) return;
  Tensor dy = forward.difference * (2.0 / elements);
  torch::autograd::backward({forward.output}, {dy});
}

// difference: rows of the samples of the batch, one after another.
[[noreturn]] void fail_not_finite(const BlockWork& work, const std::vector<int64_t>& batch,
                                  const Tensor& difference) {
  int64_t row = 0;
  for (const int64_t sample : batch) {
    const int64_t tokens = work.input.tokens(sample);
    if (!difference.narrow(0, row, tokens).isfinite().all().item<bool>())
      fail(
          "{}: its output for calibration window {} is not finite: the checkpoint or the "
          "calibration data contain NaN or infinity",
          work.name, sample);
    row += tokens;
  }
  fail("{}: its outputs are too large for the square of their error", work.name);
}

}  // namespace

SampleOrder::SampleOrder(int64_t samples, int64_t per_iteration, PythonRandom& random)
    : order_(samples), per_iteration_(std::min(samples, per_iteration)), random_(random) {
  std::iota(order_.begin(), order_.end(), 0);
  random_.shuffle(order_);
}

std::vector<int64_t> SampleOrder::next() {
  if (position_ + per_iteration_ > static_cast<int64_t>(order_.size())) {
    random_.shuffle(order_);
    position_ = 0;
  }
  auto begin = order_.begin() + position_;
  position_ += per_iteration_;
  return {begin, begin + per_iteration_};
}

Loss tune_rounding(const BlockWork& work, const AutoRoundSettings& settings,
                   const AutoRoundOptions& options) {
  const std::vector<TunedStack> stacks = start_rounding(work.tasks, settings, options);
  const int64_t batch_size = settings.batch_size;
  SampleOrder order(work.input.count(), batch_size * options.gradient_accumulation, work.random);
  Loss loss{0, std::numeric_limits<double>::infinity(), 0};
  for (int iteration = 0; iteration < settings.iters; ++iteration) {
    const std::vector<int64_t> chosen = order.next();
    const int64_t count = std::ssize(chosen), micro_batches = (count + batch_size - 1) / batch_size;
    for (const TunedStack& stack : stacks)
      stack->begin_iteration(iteration, static_cast<int>(micro_batches));

    double sum = 0, elements = 0;
    for (int64_t i = 0; i < micro_batches; ++i) {
      const std::vector<int64_t> batch(
          chosen.begin() + i * batch_size,
          chosen.begin() + std::min<int64_t>(count, (i + 1) * batch_size));
      Forward forward = run(work, batch);
      if (!std::isfinite(forward.squared_error)) fail_not_finite(work, batch, forward.difference);
      sum += forward.squared_error;
      elements += static_cast<double>(forward.difference.numel());
      // The loss of the whole iteration is known before its last backward pass, which takes the
      // step.
      const bool best = i + 1 == micro_batches && sum / elements < loss.after;
      if (best) {
        loss.after = sum / elements;
        loss.best_iteration = iteration;
      }
      for (const TunedStack& stack : stacks) stack->keep_this(best);
      send_back(forward, static_cast<double>(forward.difference.numel()));
      for (const TunedStack& stack : stacks) stack->end_micro_batch();
    }
    if (iteration == 0) loss.before = sum / elements;
    if (work.iteration_done) work.iteration_done(iteration, settings.iters);
  }
  return loss;
}

namespace {

void check(const AutoRoundSettings& settings, Exit code, const std::string& place) {
  if (settings.iters >= 0 && settings.iters <= kernels::kMaxRoundingIterations &&
      settings.batch_size >= 1 && (!settings.lr || *settings.lr > 0))
    return;
  fail(code, "{}: expected 0 <= iters <= {}, batch_size >= 1 and lr > 0", place,
       kernels::kMaxRoundingIterations);
}

// AutoRound with 0 iterations is round-to-nearest; the modifier keeps its name.
void read(const Json& json, Step& step) {
  AutoRoundSettings settings;
  settings.iters = json.get<int>("iters", settings.iters);
  settings.batch_size = json.get<int>("batch_size", settings.batch_size);
  if (json.has("lr")) settings.lr = json.get<double>("lr");
  check(settings, Exit::invalid_input, json.path());
  if (settings.iters == 0) step.method = &rtn_method();
  step.settings = settings;
}

void write(const Step& step, JsonValue& fields) {
  const auto& settings = step.as<AutoRoundSettings>();
  fields["iters"] = settings.iters;
  fields["enable_torch_compile"] = false;
  fields["batch_size"] = settings.batch_size;
  if (settings.lr) fields["lr"] = *settings.lr;
}

void from_options(const RecipeOptions& options, Step& step) {
  const AutoRoundSettings settings = {options.iters, options.lr, options.batch_size};
  check(settings, Exit::usage, "--iters, --batch-size, --lr");
  step.settings = settings;
  if (settings.iters > 0) return;
  step.method = &rtn_method();
  step.modifier = step.method->modifier;
}

std::string text(const Step& step) {
  const auto& settings = step.as<AutoRoundSettings>();
  return fmt::format("{} iterations, {} samples each", settings.iters, settings.batch_size);
}

void describe(const Step& step, quant::ConfigDetails& details) {
  const auto& settings = step.as<AutoRoundSettings>();
  details.iters = settings.iters;
  details.batch_size = settings.batch_size;
  details.learning_rate = settings.lr;
}

std::string refusal(const Step&, int64_t columns, const quant::Scheme& scheme) {
  if (scheme.element != &quant::kInt4)
    return fmt::format("AutoRound's kernels tune int4 weights, not {}", scheme.element->name);
  return kernels::rounding_refusal({.columns = columns,
                                    .group = scheme.group_size < 0 ? columns : scheme.group_size,
                                    .symmetric = scheme.symmetric});
}

Footprint footprint(const Step& step, const CompressOptions& options) {
  const auto& settings = step.as<AutoRoundSettings>();
  const auto values = static_cast<double>(c10::elementSize(ops::LearningStack::fastest_dtype()));
  const double offsets = kernels::offset_type(settings.iters) == kernels::OffsetType::int16 ? 2 : 4;
  const double momentum = options.tuning.momentum == 0 ? 0 : 4;
  const double sums = options.tuning.gradient_accumulation > 1 ? 4 : 0;
  return {.bytes_of_weight = values + offsets + momentum + sums,
          .bytes_of_group = sizeof(kernels::RoundingGroup),
          .samples_at_once = settings.batch_size};
}

// A code is round(w / s + V), where V is a sum of steps lr (1 - t / iters). The state of iteration
// t includes the steps before t, so the state of the last iteration lacks only the last step.
quant::Bound bound(const AutoRoundSettings& settings) {
  const double iters = settings.iters, steps = (iters + 1) / 2 - 1 / iters;
  return {quant::Bound::Kind::code_distance, 0.5 + learning_rate(settings) * steps};
}

Results run(const Step& step, const BlockWork& work) {
  const auto& settings = step.as<AutoRoundSettings>();
  Results results{.loss = tune_rounding(work, settings, work.options.tuning)};
  for (const Task& task : work.tasks) {
    Outcome outcome{task, {}, bound(settings)};
    const auto tuned = task.weight.as<ops::RoundingStack>();
    for (int64_t i = 0; i < tuned->matrices(); ++i) outcome.matrices.push_back(tuned->best(i));
    results.outcomes.push_back(std::move(outcome));
  }
  return results;
}

}  // namespace

const Method& auto_round_method() {
  static const Method kMethod = {.modifier = "AutoRoundModifier",
                                 .option = "auto-round",
                                 .schemes = Schemes::earlier,
                                 .needs_data = true,
                                 .grid = quant::Grid::auto_round,
                                 .fields = {"iters", "enable_torch_compile", "batch_size", "lr",
                                            "device_ids", "disable_opt_rtn"},
                                 .read = read,
                                 .write = write,
                                 .from_options = from_options,
                                 .text = text,
                                 .describe = describe,
                                 .refusal = refusal,
                                 .footprint = footprint,
                                 .run = run};
  return kMethod;
}

}  // namespace quern::compress
