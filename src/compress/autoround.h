// AutoRound (Cheng et al., "Optimize Weight Rounding via Signed Gradient Descent", 2023): the
// roundings and clip factors of all weights of a block are tuned together by sign gradient descent
// on the error of the block's output.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "base/random.h"
#include "nn/model.h"
#include "quant/scheme.h"

namespace quern::compress {

struct AutoRoundOptions {
  int iterations = 200;
  std::optional<double> lr;         // default 1 / iterations; decays linearly to 0
  std::optional<double> minmax_lr;  // default lr
  int batch_size = 8;
  int gradient_accumulation = 1;  // micro-batches of batch_size samples in an iteration
  double momentum = 0;
  bool tune_minmax = true;  // alpha and beta as well as V
  uint64_t seed = 42;
};

// Activations at a block's input or output, fp32 [tokens, hidden], samples one after another.
struct Samples {
  Tensor rows;
  std::vector<int64_t> lengths;
  nn::Shared shared = {};  // what earlier blocks tell later ones

  // Rows of some of the samples, in this order: int64 [their tokens].
  Tensor rows_of(const std::vector<int64_t>& which) const;
  // Those samples, copied.
  Samples pick(const std::vector<int64_t>& which) const;
};

// Which samples an iteration sees: a shuffled pass over all of them in slices, then the next. After
// AutoRound's IndexSampler; the stream of random numbers runs on from block to block.
class SampleOrder {
 public:
  SampleOrder(int64_t samples, int64_t per_iteration, PythonRandom& random);
  std::vector<int64_t> next();

 private:
  std::vector<int64_t> order_;
  int64_t per_iteration_, position_ = 0;
  PythonRandom& random_;
};

// Losses are the mean squared error of the block's output.
struct Tuned {
  double loss_before;  // round-to-nearest
  double loss_after;   // of the best iteration
  int best_iteration;
};

// Tunes `weights`, which must be dense and part of `block`; they are left as
// ops::RoundingStack, whose best() is the result. `input` comes from the quantized blocks before
// this one, `target` is what the original block makes of the original input. Iteration 0 is
// round-to-nearest, so the result is never worse than that on the samples that were compared.
Tuned auto_round(const nn::Block& block,
                 const std::vector<std::pair<nn::Weight, quant::Scheme>>& weights,
                 const Samples& input, const Samples& target, const AutoRoundOptions& options,
                 PythonRandom& random, const std::function<void(int iteration)>& progress);

}  // namespace quern::compress
