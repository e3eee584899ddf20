// AutoRound (Cheng et al., "Optimize Weight Rounding via Signed Gradient Descent", 2023): the
// roundings and clip factors of all weights of a block are tuned together by sign gradient descent
// on the error of the block's output.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/random.h"
#include "compress/method.h"

namespace quern::compress {

// Settings that a recipe can state.
struct AutoRoundSettings {
  int iters = 200;
  std::optional<double> lr = {};  // none: 1 / iters; decays linearly to 0
  int batch_size = 8;             // samples of a micro-batch
};

// Settings that only the command line can state.
struct AutoRoundOptions {
  std::optional<double> minmax_lr = {};  // none: lr
  int gradient_accumulation = 1;         // micro-batches in an iteration
  double momentum = 0;
  bool tune_minmax = true;  // alpha and beta as well as V
  uint64_t seed = 42;
};

// The samples of each iteration: slices of a shuffled pass over all samples, then of the next pass.
// Follows AutoRound's IndexSampler; the stream of random numbers continues from block to block.
class SampleOrder {
 public:
  SampleOrder(int64_t samples, int64_t per_iteration, PythonRandom& random);
  std::vector<int64_t> next();

 private:
  std::vector<int64_t> order_;
  int64_t per_iteration_, position_ = 0;
  PythonRandom& random_;
};

const Method& auto_round_method();

// Leaves the weights of the tasks as ops::RoundingStack, whose best() is the result. Iteration 0 is
// round-to-nearest, so on the compared samples the result is never worse than round-to-nearest.
// Fails when a weight, or the block's output for a sample, is not finite, and names it.
Loss tune_rounding(const BlockWork& work, const AutoRoundSettings& settings,
                   const AutoRoundOptions& options);

}  // namespace quern::compress
