#include "engine/memory_plan.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <iterator>
#include <string_view>

#include "base/error.h"

namespace quern::engine {
namespace {

// Of the memory, for snapshots of recurrent state: where prompts may be taken up again.
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

// "<key>  <number>" of a file such as /proc/meminfo, or the number that is the whole file.
int64_t number_in(const char* file, std::string_view key) {
  std::ifstream stream(file);  // what the kernel makes up has no size before it is read
  const std::string text((std::istreambuf_iterator<char>(stream)), {});
  const size_t found = text.find(key);
  if (found == std::string::npos) return -1;
  const size_t digits = text.find_first_of("0123456789", found + key.size());
  int64_t number = -1;
  if (digits != std::string::npos)
    std::from_chars(text.data() + digits, text.data() + text.size(), number);
  return number;
}

}  // namespace

std::string bytes_text(int64_t bytes) {
  const double gib = static_cast<double>(bytes) / (int64_t{1} << 30);
  return gib >= 0.1 ? fmt::format("{:.2f} GiB", gib)
                    : fmt::format("{:.2f} MiB", static_cast<double>(bytes) / (1 << 20));
}

int64_t available_memory() {
  int64_t available = number_in("/proc/meminfo", "MemAvailable:") * 1024;
  // Without a limit the file says "max", which has no digits.
  const int64_t limit = number_in("/sys/fs/cgroup/memory.max", ""),
                used = number_in("/sys/fs/cgroup/memory.current", "");
  if (limit >= 0 && used >= 0) available = std::min(available, std::max<int64_t>(0, limit - used));
  return available;
}

MemoryPlan plan_memory(const MemoryNeeds& needs, const MemoryWishes& wishes) {
  QUERN_CHECK(needs.windows.size() == needs.block_bytes.size() && needs.longest > 0);
  const int64_t wanted = wishes.max_model_len > 0 ? wishes.max_model_len : needs.longest;
  MemoryPlan plan;
  int64_t fixed = 0;  // bytes of windows and running states
  int64_t full = -1;  // the group whose layers see all
  for (size_t g = 0; g < needs.windows.size(); ++g) {
    if (needs.windows[g] == 0) full = static_cast<int64_t>(g);
    plan.blocks.push_back(
        needs.windows[g] == 0 ? 0 : window_blocks(needs.windows[g], needs, wishes, wanted));
    fixed += plan.blocks.back() * needs.block_bytes[g];
  }
  if (needs.state_bytes > 0) plan.states = wishes.max_num_seqs;
  fixed += plan.states * needs.state_bytes;
  if (fixed > wishes.bytes)
    fail(Exit::memory,
         "{} running sequences need {} for sliding windows and recurrent states, and the caches "
         "have {}: lower --max-num-seqs or raise --kv-cache-memory-bytes",
         wishes.max_num_seqs, bytes_text(fixed), bytes_text(wishes.bytes));
  if (needs.state_bytes > 0 && wishes.prefix_caching) {
    const int64_t snapshots =
        std::min(wishes.bytes / kSnapshotShare, wishes.bytes - fixed) / needs.state_bytes;
    // More than a few for each sequence are not worth the memory of keys and values.
    const int64_t kept = std::min(snapshots, std::max<int64_t>(64, 8 * wishes.max_num_seqs));
    plan.states += kept;
    fixed += kept * needs.state_bytes;
  }
  plan.bytes = fixed;
  plan.max_model_len = wanted;
  plan.kv_tokens = wishes.max_num_seqs * wanted;  // if nothing grows with the sequence
  if (full < 0) return plan;

  const int64_t bytes = needs.block_bytes[static_cast<size_t>(full)];
  // No more than all sequences at their longest can use, twice, so that prompts stay findable.
  const int64_t useful = 2 * wishes.max_num_seqs * blocks_for(wanted, needs.block_tokens);
  const int64_t blocks =
      wishes.blocks > 0 ? wishes.blocks : std::min((wishes.bytes - fixed) / bytes, useful);
  plan.blocks[static_cast<size_t>(full)] = blocks;
  plan.bytes += blocks * bytes;
  plan.kv_tokens = blocks * needs.block_tokens;
  if (plan.kv_tokens >= wanted) return plan;
  if (wishes.max_model_len > 0 || blocks == 0)
    fail(
        Exit::memory,
        "one sequence of {} tokens (max_model_len) needs {} of KV cache, and {} are available; the "
        "estimated maximum model length is {}: lower --max-model-len or raise "
        "--kv-cache-memory-bytes",
        wanted, bytes_text(blocks_for(wanted, needs.block_tokens) * bytes),
        bytes_text(wishes.bytes - fixed), plan.kv_tokens);
  plan.max_model_len = plan.kv_tokens;
  return plan;
}

}  // namespace quern::engine
