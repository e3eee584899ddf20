// Measures how well a model predicts a text, and how much a second model's predictions differ. Sums
// are fp64 in the order of the tokens: equal results for every thread count.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "base/json.h"
#include "eval/windows.h"
#include "nn/weights.h"

namespace quern::eval {

struct ScoreOptions {
  // The limit of bytes for states; with more text the models are read several times.
  int64_t state_bytes = int64_t{1} << 30;
  // Called after every block of every model.
  std::function<void(int64_t done, int64_t total)> progress = {};
};

struct Scores {
  int64_t tokens = 0, windows = 0;  // scored
  int64_t not_finite = 0;           // tokens with NaN or infinity in their logits
  double mean_log_prob = 0;         // nats per token
  double perplexity = 0;
};

// The divergence of a token is KL(reference || artifact) = sum_v p(v) (ln p(v) - ln q(v)), in nats.
struct Comparison {
  Scores reference, artifact;
  double mean_kld = 0;
  // Standard errors of the mean. Tokens of a window are correlated, so kld_error, with windows as
  // samples, is the realistic one (0 for a single window); kld_token_error treats tokens as
  // independent.
  double kld_error = 0, kld_token_error = 0;
  double max_kld = 0;
  double top1_agreement = 0;  // share of tokens with the same most likely token in both
};

Scores score(std::shared_ptr<const nn::Source> model, std::span<const Window> windows,
             const ScoreOptions& options = {});

// Fails if the vocabularies differ.
Comparison compare(std::shared_ptr<const nn::Source> reference,
                   std::shared_ptr<const nn::Source> artifact, std::span<const Window> windows,
                   const ScoreOptions& options = {});

JsonValue to_json(const Scores& scores);
JsonValue to_json(const Comparison& comparison);

}  // namespace quern::eval
