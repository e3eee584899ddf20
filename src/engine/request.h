// What goes into an engine and what comes out: a prompt with its settings, and what a step made of
// it. Text is the front end's work: here are token ids only.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/options.h"
#include "prompt/media.h"

namespace quern::engine {

// How the next token is chosen from the logits; the rules and their order are in sampler.h.
struct Sampling {
  double temperature = 1;         // 0: always the likeliest token
  int64_t top_k = 0;              // only the k likeliest; 0: all
  double top_p = 1;               // the likeliest until they hold this share of the probability
  double min_p = 0;               // none below this fraction of the likeliest one's probability
  double repetition_penalty = 1;  // divides positive and multiplies negative logits of seen tokens
  double frequency_penalty = 0;   // taken off a logit for each time the answer has its token
  double presence_penalty = 0;    // taken off once if the answer has the token
  std::vector<std::pair<int32_t, float>> logit_bias = {};  // added to the logits of these ids
  // Sequences that the answer never completes; their tokens but the last must come right before.
  std::vector<std::vector<int32_t>> bad_words = {};
  std::vector<int32_t> allowed_ids = {};  // none but these; empty: all
  // Equal seeds and lanes give equal answers, alone and in any company; unset: drawn anew.
  std::optional<uint64_t> seed = std::nullopt;
  uint32_t lane = 0;  // which of several answers to one prompt this is

  // Fails with Exit::usage, naming the setting that is out of its range.
  void check() const;
};

struct Request {
  std::vector<int32_t> tokens = {};  // the prompt; not empty
  int64_t max_tokens = 256;          // new ones
  int64_t min_tokens = 0;            // until then no stop id is drawn
  Sampling sampling = {};
  std::vector<int32_t> stop_ids = {};  // each ends the answer, and is its last token
  // How many of the likeliest tokens are reported beside each new one, and beside each of the
  // prompt but the first; 0: only the token itself. Unset: no report.
  std::optional<int64_t> logprobs = std::nullopt;
  std::optional<int64_t> prompt_logprobs = std::nullopt;
  // Under Policy::priority a smaller number goes first; of equal ones the earlier.
  int64_t priority = 0;
  // Requests of one key share a turn with those of every other key; empty is a key too.
  std::string fairness_key = {};
  // Prompts share cached blocks only with prompts of the same salt.
  std::string cache_salt = {};
  // Pictures of the prompt, in its order; `tokens` holds their soft tokens.
  std::vector<prompt::ImagePrompt::Image> images = {};
};

enum class Finish { stop, length, cancelled, error };

// "stop", "length", "cancelled", "error".
const char* name_of(Finish finish);

struct Likely {
  int32_t id = 0;
  float logprob = 0;
};

// A token among all that could have stood in its place.
struct TokenReport {
  float logprob = 0;
  int64_t rank = 1;         // 1 + how many were likelier
  std::vector<Likely> top;  // likeliest first, as many as were asked for
};

// What a step did for one request. The first one comes with the step that begins to read the
// prompt, the last one has `finish`.
struct Update {
  int64_t request = 0;
  std::vector<int32_t> tokens = {};       // new; none while the prompt is being read
  std::vector<TokenReport> reports = {};  // of the new tokens, if asked for
  // Of the prompt's tokens from the second on, if asked for: all of them, with the first new token.
  std::vector<TokenReport> prompt_reports = {};
  // In the first update: how many tokens of the prompt were found in the prefix cache.
  std::optional<int64_t> cached_tokens = std::nullopt;
  std::optional<Finish> finish = std::nullopt;
  std::string error = {};  // with Finish::error: what happened
};

// What does not change while an engine lives.
struct Limits {
  int64_t vocabulary = 0;     // ids are below
  int64_t max_model_len = 0;  // tokens of prompt and answer together
  int64_t max_num_seqs = 0;   // in one step
  int64_t max_num_batched_tokens = 0;
  int64_t block_tokens = 0;  // of a cache block
  int64_t kv_tokens = 0;     // that all caches together hold
  bool prefix_caching = false;
  bool priorities = false;  // Policy::priority
};

// Fails with Exit::usage where a request can never be served, naming the setting.
void check(const Request& request, const Limits& limits);

// Counts since the start but where it says "now".
struct EngineState {
  int64_t running = 0, waiting = 0;  // requests, now
  int64_t kv_tokens_used = 0;        // now, by running requests
  int64_t preemptions = 0;
  int64_t prefix_queries = 0, prefix_hits = 0;  // tokens of prompts
  int64_t prompt_tokens = 0;      // that were computed, those again after preemption too
  int64_t recomputed_tokens = 0;  // of them, after preemption
  int64_t new_tokens = 0;
  int64_t steps = 0;
  int64_t step_tokens = 0;   // of the last step
  double step_seconds = 0;   // of the last step
  int64_t failed_steps = 0;  // whose requests ended with Finish::error
  // Requests that ended because their logits were not numbers: all, and those since one drew a
  // token.
  int64_t corrupted_requests = 0, corrupted_in_a_row = 0;
};

}  // namespace quern::engine
