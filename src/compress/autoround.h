// AutoRound (Cheng et al., "Optimize Weight Rounding via Signed Gradient Descent", 2023): the
// roundings and clip factors of all weights of a block are tuned together by sign gradient descent
// on the error of the block's output.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/random.h"
#include "compress/task.h"
#include "nn/model.h"

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

// Some weights of a block, and what they are tuned by.
struct BlockWork {
  std::string name;  // of the block, "model.language_model.layers.3"
  const nn::Block& block;
  std::vector<Task> tasks;  // weights of the block, all of them dense
  const Samples& input;     // what the quantized blocks before this one give
  const Samples& target;    // what the original block makes of the original input
  std::function<void(int iteration)> iteration_done;
};

// Leaves the weights of the tasks as ops::RoundingStack, whose best() is the result. Iteration 0 is
// round-to-nearest, so the result is never worse than that on the samples that were compared. Fails
// when a weight or the output of the block for a sample is not finite, naming it.
Tuned auto_round(const BlockWork& work, const AutoRoundOptions& options, PythonRandom& random);

}  // namespace quern::compress
