// Logits -> the next token. The rules and their order are those of vLLM: allowed ids, bad words,
// minimal length, bias, penalties (repetition, frequency, presence), temperature, min_p, top_k,
// top_p; then the token with the largest p / q is taken, where q is exponential noise.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "base/error.h"
#include "engine/noise.h"
#include "engine/request.h"

namespace quern::engine {

// Logits with a NaN or an infinity above: the model's arithmetic or its memory is at fault, and
// what the request has left in the caches may be damaged too.
class CorruptedLogits : public Error {
 public:
  CorruptedLogits();
};

struct Choice {
  int32_t id;
  double logit;  // divided by the temperature
};

// The tokens that temperature, min_p, top_k and top_p leave, in no particular order; `logits` carry
// all earlier rules, forbidden tokens as minus infinity. With temperature 0 that is one token, of
// equal ones the first. A token that is less likely than the likeliest by a factor of 2^-40 is left
// out always: the noise could not draw it. Fails when no token is left, and with CorruptedLogits.
std::vector<Choice> choices(std::span<const float> logits, const Sampling& sampling);

// A token's place among all. `values` are logits; they are normalized unless `mode` asks for
// logits. Fails with CorruptedLogits.
TokenReport report(std::span<const float> values, int32_t token, int64_t top, LogprobsMode mode);

// The choices of one answer, one after another.
class Sampler {
 public:
  // Ids from `ids` on are never drawn: the rows of an embedding beyond the tokenizer's vocabulary.
  // `entropy` takes the place of a seed that is not set.
  Sampler(const Request& request, int64_t ids, LogprobsMode mode, uint64_t entropy);

  struct Drawn {
    int32_t token;
    std::optional<TokenReport> report;
  };
  // `answer`: what was drawn before. Each call counts the token that it returns.
  Drawn next(std::span<const float> logits, std::span<const int32_t> answer);

 private:
  // The rules before the temperature.
  void apply_rules(std::span<float> logits, std::span<const int32_t> answer) const;
  void apply_masks(std::span<float> logits, std::span<const int32_t> answer) const;
  void apply_penalties(std::span<float> logits) const;

  Sampling sampling_;
  int64_t ids_, min_tokens_;
  std::vector<int32_t> stop_ids_;
  std::optional<int64_t> reported_;
  LogprobsMode mode_;
  Noise noise_;
  std::unordered_set<int32_t> prompt_;           // empty without a repetition penalty
  std::unordered_map<int32_t, int64_t> counts_;  // of the answer's tokens; empty without penalties
};

}  // namespace quern::engine
