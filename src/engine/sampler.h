// Logits -> the next token. The rules and their order are those of vLLM: repetition penalty,
// temperature, min_p, top_k, top_p; then one draw from what is left.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <unordered_set>
#include <vector>

#include "base/random.h"
#include "engine/request.h"

namespace quern::engine {

// What generation_config.json of a model folder recommends; what it does not say stays as above. As
// in vLLM, `do_sample` is not looked at.
Sampling recommended_sampling(const std::filesystem::path& folder);

struct Choice {
  int32_t id;
  double probability;
};

// The tokens that may come next, with probabilities that add up to 1. `logits` already carry the
// penalty. With temperature 0 that is one token, of equal ones the first; else tokens are in the
// order of their probability if top_k or top_p cut some off, in that of their ids if not. Fails
// when the largest logit is not a finite number.
std::vector<Choice> choices(std::span<const float> logits, const Sampling& sampling);

// The choices of one sequence, one after another.
class Sampler {
 public:
  // Ids from `ids` on are never drawn: the rows of an embedding beyond the tokenizer's vocabulary.
  Sampler(const Sampling& sampling, int64_t ids);

  // Tokens of the prompt, for the penalty. Those that next() returns are counted already.
  void see(std::span<const int32_t> tokens);
  int32_t next(std::span<const float> logits);

 private:
  Sampling sampling_;
  int64_t ids_;
  std::unordered_set<int32_t> seen_;  // empty while there is no penalty
  NumpyRandom random_;
};

}  // namespace quern::engine
