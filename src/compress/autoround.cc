#include "compress/autoround.h"

#include <algorithm>
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

std::vector<Rounding> start_rounding(
    const std::vector<std::pair<nn::Weight, quant::Scheme>>& weights,
    const AutoRoundOptions& options) {
  ops::RoundingOptions rounding;
  rounding.iterations = options.iterations;
  rounding.lr = options.lr.value_or(1.0 / options.iterations);
  rounding.minmax_lr = options.minmax_lr.value_or(rounding.lr);
  rounding.momentum = options.momentum;
  rounding.tune_minmax = options.tune_minmax;
  std::vector<Rounding> started;
  for (const auto& [weight, scheme] : weights) {
    const auto dense = weight.dense();
    QUERN_CHECK(dense);
    started.push_back(std::make_shared<ops::RoundingStack>(dense->all(), scheme, rounding));
    weight.become(started.back());
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

Tuned auto_round(const nn::Block& block,
                 const std::vector<std::pair<nn::Weight, quant::Scheme>>& weights,
                 const Samples& input, const Samples& target, const AutoRoundOptions& options,
                 PythonRandom& random, const std::function<void(int iteration)>& progress) {
  const std::vector<Rounding> roundings = start_rounding(weights, options);
  const auto samples = static_cast<int64_t>(input.lengths.size());
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
      Forward forward =
          run(block, input.pick(batch), target.rows.index_select(0, target.rows_of(batch)));
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
    progress(iteration);
  }
  if (!(tuned.loss_after <= std::numeric_limits<double>::max())) {
    fail(
        "the loss of a block is not a finite number: the checkpoint or the calibration data hold "
        "NaN or infinity");
  }
  return tuned;
}

}  // namespace quern::compress
