// The options of an engine: plain values, which a command line can hold.
#pragma once

#include <cstdint>
#include <optional>

#include "kernels/sequence.h"

namespace quern::engine {

using kernels::KvType;

// Which request goes first when there is no room for all: the earliest, with turns between keys; or
// the one with the smallest Request::priority.
enum class Policy { fcfs, priority };

// What the numbers of a report are: log-probabilities or logits, as the model gave them, or after
// all rules of the sampling but the draw.
enum class LogprobsMode { raw_logprobs, raw_logits, processed_logprobs, processed_logits };

struct EngineOptions {
  // Tokens of prompt and answer; 0: as many as the model and the memory allow.
  int64_t max_model_len = 0;
  int64_t max_num_seqs = 16;
  // Tokens of a pass: more are no faster and their activations take more memory.
  int64_t max_num_batched_tokens = 512;
  int64_t long_prefill_tokens = 0;  // of one prompt in a pass; 0: all that there is room for
  // The time that a pass with answers may take: it computes fewer tokens of prompts to end in time.
  // 0: no limit.
  double target_itl_ms = 250;
  Policy policy = Policy::fcfs;
  bool prefix_caching = true;
  // Unset: what the model's weights are stored in.
  std::optional<KvType> kv_type = std::nullopt;
  // For all caches; 0: what `memory_share` leaves.
  int64_t kv_bytes = 0;
  // Of the machine's memory, for weights, activations and caches; 0: caches get a quarter of what
  // is available, and 16 GiB at most.
  double memory_share = 0;
  // Blocks for layers that see all tokens, whatever kv_bytes; 0: as many as find room.
  int64_t kv_blocks = 0;
  int64_t block_tokens = 16;  // of a block; a multiple of 16
  LogprobsMode logprobs_mode = LogprobsMode::raw_logprobs;
  // Ids from here on are never drawn; 0: all that the model has.
  int64_t ids = 0;
  // Engines of one seed give equal answers to equal requests in the same order, also to those that
  // have no seed; unset: drawn anew.
  std::optional<uint64_t> seed = std::nullopt;

  // Fails with Exit::usage, naming the option, for a model of `longest` tokens at most.
  void check(int64_t longest) const;
};

}  // namespace quern::engine
