#include "engine/options.h"

#include "base/error.h"

namespace quern::engine {
namespace {

constexpr int64_t kKernelTokens = kernels::KvBlock::kTokens, kMostBlockTokens = 1024;

}  // namespace

void EngineOptions::check(int64_t longest) const {
  if (max_num_seqs < 1 || max_num_batched_tokens < max_num_seqs)
    fail(Exit::usage,
         "max_num_batched_tokens is {} and max_num_seqs {}: a pass must have room for a token of "
         "each sequence",
         max_num_batched_tokens, max_num_seqs);
  if (!(target_itl_ms >= 0 && target_itl_ms <= 1e6))
    fail(Exit::usage, "target_itl_ms is {}, it must lie between 0 (no target) and 1000000",
         target_itl_ms);
  if (max_model_len > longest)
    fail(Exit::usage, "max_model_len is {}, but the model was made for {} tokens at most",
         max_model_len, longest);
  if (block_tokens < kKernelTokens || block_tokens > kMostBlockTokens ||
      block_tokens % kKernelTokens != 0)
    fail(Exit::usage,
         "block_size is {}, it must be a multiple of {} (the kernels read that many tokens at "
         "once) and at most {}",
         block_tokens, kKernelTokens, kMostBlockTokens);
}

}  // namespace quern::engine
