#include "compress/autoround.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "base/threads.h"
#include "ops/rounding_stack.h"

namespace quern::compress {
namespace {

// Elements whose squares are added up at a time.
constexpr int64_t kPiece = 64 * 1024;

using Rounding = std::shared_ptr<ops::RoundingStack>;

std::vector<Rounding> start_rounding(const std::vector<Task>& tasks,
                                     const AutoRoundOptions& options) {
  ops::RoundingOptions rounding;
  rounding.iterations = options.iterations;
  rounding.lr = options.lr.value_or(1.0 / options.iterations);
  rounding.minmax_lr = options.minmax_lr.value_or(rounding.lr);
  rounding.momentum = options.momentum;
  rounding.tune_minmax = options.tune_minmax;
  std::vector<Rounding> started;
  for (const Task& task : tasks) {
    auto state = std::make_shared<ops::RoundingStack>(task.originals, task.scheme, rounding);
    if (const auto matrix = state->not_finite())
      fail("{} holds NaN, infinity or weights too large for a scale in {}", task.modules[*matrix],
           at::toString(task.scheme.scale_dtype));
    task.weight.become(state);
    started.push_back(std::move(state));
  }
  return started;
}

// One micro-batch forward: the loss summed over its elements, and what to send back.
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

// target: fp32, of the shape of the rows.
Forward run(const nn::Block& block, const Samples& input, const Tensor& target) {
  at::AutoGradMode with_grad(true);
  nn::Pass pass = nn::Pass::whole(input.lengths);
  pass.shared = input.shared;
  Tensor output = block(input.rows, pass);
  Tensor difference = difference_of(output.detach(), target);
  return {output, difference, squared_error(difference)};
}

// Gradients are only used by their sign, so the loss may be scaled at will; the factor keeps it a
// mean.
void send_back(const Forward& forward, double elements) {
  if (!forward.output.requires_grad()) return;
  Tensor dy = forward.difference * (2.0 / elements);
  torch::autograd::backward({forward.output}, {dy});
}

// lengths: of the samples of the batch, whose rows lie one after another in `difference`.
[[noreturn]] void fail_not_finite(const std::string& block, const std::vector<int64_t>& batch,
                                  const std::vector<int64_t>& lengths, const Tensor& difference) {
  int64_t row = 0;
  for (size_t i = 0; i < batch.size(); ++i) {
    if (!difference.narrow(0, row, lengths[i]).isfinite().all().item<bool>())
      fail(
          "{}: its output for calibration window {} is not finite: the checkpoint or the "
          "calibration data hold NaN or infinity",
          block, batch[i]);
    row += lengths[i];
  }
  fail("{}: its outputs are too large for the square of their error", block);
}

}  // namespace

Tensor Samples::rows_of(const std::vector<int64_t>& which) const {
  std::vector<int64_t> begin(lengths.size() + 1, 0);
  std::partial_sum(lengths.begin(), lengths.end(), begin.begin() + 1);
  std::vector<Tensor> parts;
  for (int64_t sample : which)
    parts.push_back(at::arange(begin[sample], begin[sample + 1], at::kLong));
  return at::cat(parts);
}

Samples Samples::pick(const std::vector<int64_t>& which) const {
  const Tensor chosen = rows_of(which);
  Samples picked{rows.index_select(0, chosen), {}, shared.pick(chosen)};
  for (int64_t sample : which) picked.lengths.push_back(lengths[sample]);
  return picked;
}

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

Tuned auto_round(const BlockWork& work, const AutoRoundOptions& options, PythonRandom& random) {
  const std::vector<Rounding> roundings = start_rounding(work.tasks, options);
  const auto samples = static_cast<int64_t>(work.input.lengths.size());
  SampleOrder order(
      samples, static_cast<int64_t>(options.batch_size) * options.gradient_accumulation, random);
  Tuned tuned{0, std::numeric_limits<double>::infinity(), 0};
  for (int iteration = 0; iteration < options.iterations; ++iteration) {
    const std::vector<int64_t> chosen = order.next();
    const auto count = static_cast<int64_t>(chosen.size());
    const int64_t micro_batches = (count + options.batch_size - 1) / options.batch_size;
    for (const Rounding& rounding : roundings)
      rounding->begin_iteration(iteration, static_cast<int>(micro_batches));

    double sum = 0, elements = 0;
    for (int64_t i = 0; i < micro_batches; ++i) {
      const std::vector<int64_t> batch(
          chosen.begin() + i * options.batch_size,
          chosen.begin() + std::min<int64_t>(count, (i + 1) * options.batch_size));
      const Samples input = work.input.pick(batch);
      Forward forward =
          run(work.block, input, work.target.rows.index_select(0, work.target.rows_of(batch)));
      if (!std::isfinite(forward.squared_error))
        fail_not_finite(work.name, batch, input.lengths, forward.difference);
      sum += forward.squared_error;
      elements += static_cast<double>(forward.difference.numel());
      // The loss of the whole iteration is known before its last backward pass, which takes the
      // step.
      const bool best = i + 1 == micro_batches && sum / elements < tuned.loss_after;
      if (best) {
        tuned.loss_after = sum / elements;
        tuned.best_iteration = iteration;
      }
      for (const Rounding& rounding : roundings) rounding->keep_this(best);
      send_back(forward, static_cast<double>(forward.difference.numel()));
      for (const Rounding& rounding : roundings) rounding->end_micro_batch();
    }
    if (iteration == 0) tuned.loss_before = sum / elements;
    work.iteration_done(iteration);
  }
  return tuned;
}

}  // namespace quern::compress
