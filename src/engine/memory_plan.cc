#include "engine/memory_plan.h"

#include <algorithm>

#include "base/error.h"

namespace quern::engine {
namespace {

// Used where no option says how much the caches may take.
constexpr int64_t kCautiousShare = 4;  // a quarter
constexpr int64_t kCautiousMost = int64_t{16} << 30;
// Of the caches, for snapshots of recurrent state: where prompts may be taken up again.
constexpr int64_t kSnapshotShare = 5;  // a fifth

int64_t blocks_for(int64_t tokens, int64_t block) { return (tokens + block - 1) / block; }

// Blocks of a window's group that can be in use at once: a running sequence keeps what its next
// query sees, and a pass adds its tokens.
int64_t window_blocks(int64_t window, const MemoryNeeds& needs, const MemoryWishes& wishes,
                      int64_t longest) {
  const int64_t kept = std::min(window - 1, longest);
  return wishes.max_num_seqs * (blocks_for(kept, needs.block_tokens) + 2) +
         blocks_for(wishes.max_num_batched_tokens, needs.block_tokens);
}

// Fixed needs first: windows and the states of running sequences. Returns their bytes.
int64_t plan_fixed(const MemoryNeeds& needs, const MemoryWishes& wishes, int64_t wanted,
                   int64_t budget, MemoryPlan& plan) {
  int64_t fixed = 0;
  for (size_t g = 0; g < needs.windows.size(); ++g) {
    plan.blocks.push_back(
        needs.windows[g] == 0 ? 0 : window_blocks(needs.windows[g], needs, wishes, wanted));
    fixed += plan.blocks.back() * needs.block_bytes[g];
  }
  if (needs.state_bytes > 0) plan.states = wishes.max_num_seqs;
  fixed += plan.states * needs.state_bytes;
  if (fixed > budget)
    fail(Exit::memory,
         "{} running sequences need {} for sliding windows and recurrent states, and the caches "
         "have {}: lower --max-num-seqs, or raise --kv-cache-memory-bytes or "
         "--gpu-memory-utilization",
         wishes.max_num_seqs, bytes_text(fixed), bytes_text(budget));
  if (needs.state_bytes == 0 || !wishes.prefix_caching) return fixed;
  const int64_t snapshots = std::min(budget / kSnapshotShare, budget - fixed) / needs.state_bytes;
  // More than a few for each sequence are not worth the memory of keys and values.
  const int64_t kept = std::min(snapshots, std::max<int64_t>(64, 8 * wishes.max_num_seqs));
  plan.states += kept;
  return fixed + kept * needs.state_bytes;
}

// The rest of the budget for the layers that see all.
void plan_full(const MemoryNeeds& needs, const MemoryWishes& wishes, size_t group, int64_t budget,
               MemoryPlan& plan) {
  const int64_t bytes = needs.block_bytes[group], wanted = plan.max_model_len,
                left = budget - plan.caches;
  // No more than all sequences at their longest can use, twice, so that prompts stay findable.
  const int64_t useful = 2 * wishes.max_num_seqs * blocks_for(wanted, needs.block_tokens);
  const int64_t blocks = wishes.blocks > 0 ? wishes.blocks : std::min(left / bytes, useful);
  plan.blocks[group] = blocks;
  plan.caches += blocks * bytes;
  plan.kv_tokens = blocks * needs.block_tokens;
  if (plan.kv_tokens >= wanted) return;
  if (wishes.max_model_len > 0 || blocks == 0)
    fail(
        Exit::memory,
        "one sequence of {} tokens (max_model_len) needs {} of KV cache, and {} are available; the "
        "estimated maximum model length is {}: lower --max-model-len, or raise "
        "--kv-cache-memory-bytes or --gpu-memory-utilization",
        wanted, bytes_text(blocks_for(wanted, needs.block_tokens) * bytes), bytes_text(left),
        plan.kv_tokens);
  plan.max_model_len = plan.kv_tokens;
}

}  // namespace

double MemoryPlan::concurrency() const {
  return static_cast<double>(kv_tokens) / static_cast<double>(max_model_len);
}

std::string MemoryPlan::text() const {
  return fmt::format(
      "memory: {} of weights, {} for a step, {} of caches; KV cache size: {} tokens in blocks of "
      "{}; {} sequences at once; maximum concurrency for {} tokens per request: {:.2f}x",
      bytes_text(weights), bytes_text(activations), bytes_text(caches), kv_tokens, block_tokens,
      max_num_seqs, max_model_len, concurrency());
}

int64_t cache_budget(const MemoryNeeds& needs, const MemoryWishes& wishes,
                     const MachineMemory& machine) {
  const int64_t left = machine.available - needs.mapped_weights - needs.activations;
  const std::string taken =
      fmt::format("weights take {}, a step of {} tokens {}", bytes_text(needs.weights),
                  wishes.max_num_batched_tokens, bytes_text(needs.activations));
  if (left <= 0 || wishes.cache_bytes > left)
    fail(Exit::memory,
         "{}, and {} of the machine's {} are left for caches: lower --max-num-batched-tokens{}",
         taken, bytes_text(std::max<int64_t>(0, left)), bytes_text(machine.total),
         wishes.cache_bytes > 0 ? fmt::format(" or --kv-cache-memory-bytes, which asks for {}",
                                              bytes_text(wishes.cache_bytes))
                                : ", or stop other programs");
  if (wishes.cache_bytes > 0) return wishes.cache_bytes;
  if (wishes.utilization == 0) return std::min(left / kCautiousShare, kCautiousMost);
  const auto all = static_cast<int64_t>(wishes.utilization * static_cast<double>(machine.total));
  const int64_t share = all - needs.weights - needs.activations;
  if (share <= 0)
    fail(Exit::memory,
         "--gpu-memory-utilization {} lets the server take {} of the machine's {}, but {}, and "
         "nothing is left for caches: raise it, or lower --max-num-batched-tokens",
         wishes.utilization, bytes_text(all), bytes_text(machine.total), taken);
  return std::min(share, left);
}

MemoryPlan plan_memory(const MemoryNeeds& needs, const MemoryWishes& wishes,
                       const MachineMemory& machine) {
  QUERN_CHECK(needs.windows.size() == needs.block_bytes.size() && needs.longest > 0);
  const int64_t budget = cache_budget(needs, wishes, machine);
  MemoryPlan plan{.weights = needs.weights,
                  .activations = needs.activations,
                  .block_tokens = needs.block_tokens,
                  .max_num_seqs = wishes.max_num_seqs,
                  .max_model_len = wishes.max_model_len > 0 ? wishes.max_model_len : needs.longest};
  plan.caches = plan_fixed(needs, wishes, plan.max_model_len, budget, plan);
  const auto full = std::ranges::find(needs.windows, 0);
  if (full != needs.windows.end())
    plan_full(needs, wishes, static_cast<size_t>(full - needs.windows.begin()), budget, plan);
  else  // nothing grows with a sequence
    plan.kv_tokens = wishes.max_num_seqs * plan.max_model_len;
  return plan;
}

}  // namespace quern::engine
