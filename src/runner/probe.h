// A small pass through a model before it serves anybody: it shows which layers keep something
// between passes, and how much memory a pass takes.
#pragma once

#include <functional>
#include <vector>

#include "nn/pass.h"

namespace quern::runner {

// The two halves of a step: ids int64 [tokens] -> hidden, and some rows of it -> logits.
struct StepParts {
  std::function<Tensor(const Tensor& ids, nn::Pass& pass)> forward;
  std::function<Tensor(const Tensor& hidden, const std::vector<int64_t>& rows)> logits;
};

struct Probe {
  nn::CacheLayout layout;
  int64_t activations;  // bytes that a step of `tokens` tokens and `rows` rows of logits takes
};

Probe probe(const StepParts& parts, int64_t tokens, int64_t rows);

}  // namespace quern::runner
