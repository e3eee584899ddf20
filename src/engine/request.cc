#include "engine/request.h"

#include <algorithm>

#include "base/error.h"

namespace quern::engine {
namespace {

void check_range(const char* name, double value, double least, double most) {
  if (!(value >= least && value <= most))
    fail(Exit::usage, "{} is {}, it must lie between {} and {}", name, value, least, most);
}

void check_ids(const char* what, const std::vector<int32_t>& ids, int64_t vocabulary) {
  for (int32_t id : ids)
    if (id < 0 || id >= vocabulary)
      fail("token id {} of {}: the model has ids from 0 to {}", id, what, vocabulary - 1);
}

}  // namespace

void Sampling::check() const {
  check_range("temperature", temperature, 0, 100);
  check_range("top_p", top_p, 1e-9, 1);
  check_range("min_p", min_p, 0, 1);
  check_range("repetition_penalty", repetition_penalty, 1e-3, 1e3);
  check_range("frequency_penalty", frequency_penalty, -1e3, 1e3);
  check_range("presence_penalty", presence_penalty, -1e3, 1e3);
  if (top_k < 0) fail(Exit::usage, "top_k is {}, it must be 0 (all tokens) or more", top_k);
  for (const auto& [id, bias] : logit_bias) check_range("a logit_bias", bias, -1e6, 1e6);
  for (const auto& word : bad_words)
    if (word.empty()) fail(Exit::usage, "bad_words has an entry without tokens");
}

const char* name_of(Finish finish) {
  constexpr const char* kNames[] = {"stop", "length", "cancelled", "error"};
  return kNames[static_cast<int>(finish)];
}

void check(const Request& request, const Limits& limits) {
  request.sampling.check();
  if (request.tokens.empty()) fail(Exit::usage, "the prompt is empty: it has no tokens");
  if (request.max_tokens < 1)
    fail(Exit::usage, "max_tokens is {}, it must be at least 1", request.max_tokens);
  if (request.min_tokens < 0 || request.min_tokens > request.max_tokens)
    fail(Exit::usage, "min_tokens is {}, it must lie between 0 and max_tokens, {}",
         request.min_tokens, request.max_tokens);
  if (std::ssize(request.tokens) >= limits.max_model_len)
    fail(Exit::usage,
         "the prompt has {} tokens, and prompt and answer together may have {} (max_model_len)",
         request.tokens.size(), limits.max_model_len);
  for (const auto& count : {request.logprobs, request.prompt_logprobs})
    if (count && *count < 0) fail(Exit::usage, "logprobs is {}, it must be 0 or more", *count);
  check_ids("the prompt", request.tokens, limits.vocabulary);
  check_ids("stop_token_ids", request.stop_ids, limits.vocabulary);
  check_ids("allowed_token_ids", request.sampling.allowed_ids, limits.vocabulary);
  for (const auto& word : request.sampling.bad_words)
    check_ids("bad_words", word, limits.vocabulary);
  for (const auto& [id, bias] : request.sampling.logit_bias)
    check_ids("logit_bias", {id}, limits.vocabulary);
  if (request.priority != 0 && !limits.priorities)
    fail(Exit::usage,
         "priority is {}, but requests are served first come, first served; start "
         "with --scheduling-policy priority",
         request.priority);
}

}  // namespace quern::engine
