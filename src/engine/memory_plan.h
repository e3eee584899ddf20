// How the memory for caches is divided, before anything is allocated.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace quern::engine {

struct MemoryNeeds {
  int64_t block_tokens = 16;
  std::vector<int64_t> windows;      // of the groups; 0: layers that see all
  std::vector<int64_t> block_bytes;  // of a block in all layers of a group
  int64_t state_bytes = 0;           // of a slot in all recurrent layers; 0: there are none
  int64_t longest = 0;               // tokens that the model allows
};

struct MemoryWishes {
  int64_t bytes = 0;          // for all caches
  int64_t max_model_len = 0;  // 0: as long as the model and the memory allow
  int64_t max_num_seqs = 0;
  int64_t max_num_batched_tokens = 0;
  int64_t blocks = 0;  // for layers that see all; 0: as many as there is room for
  bool prefix_caching = true;
};

struct MemoryPlan {
  std::vector<int64_t> blocks;  // by group
  int64_t states = 0;           // slots, one for each running sequence and the rest for snapshots
  int64_t max_model_len = 0;
  int64_t kv_tokens = 0;  // that the caches hold together
  int64_t bytes = 0;

  // Sequences of max_model_len that find room together.
  double concurrency() const {
    return static_cast<double>(kv_tokens) / static_cast<double>(max_model_len);
  }
};

// Fails with Exit::memory when one sequence of max_model_len, or the states of max_num_seqs, find
// no room; says what is needed, what there is, what would fit, and which flags to change.
MemoryPlan plan_memory(const MemoryNeeds& needs, const MemoryWishes& wishes);

// Memory that this process may still use: of the machine and of its control group. In bytes.
int64_t available_memory();

// "3.2 GiB"
std::string bytes_text(int64_t bytes);

}  // namespace quern::engine
