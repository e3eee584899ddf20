// How the memory of a server is divided before any of it is allocated: weights, what a step takes
// while it runs, and the caches.
//
// What a step takes (its activations) is measured, not derived: runner/probe.h runs a small pass,
// looks at how much memory the process held at its peak, and scales that to the largest pass, to
// which everything but a little scratch memory is proportional. A bound from the widths would have
// to repeat for every architecture which tensors live at the same time, and a full pass at the
// start, as on a GPU, would take minutes on some processors.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tensor/machine_memory.h"

namespace quern::engine {

struct MemoryNeeds {
  int64_t block_tokens = 16;
  std::vector<int64_t> windows;      // of the groups; 0: layers that see all
  std::vector<int64_t> block_bytes;  // of a block in all layers of a group
  int64_t state_bytes = 0;           // of a slot in all recurrent layers; 0: there are none
  int64_t longest = 0;               // tokens that the model allows
  int64_t weights = 0;               // bytes of all that is loaded
  int64_t mapped_weights = 0;        // of them, those in mapped files, which count as available
  int64_t activations = 0;           // bytes of the largest step
};

struct MemoryWishes {
  int64_t cache_bytes = 0;    // for all caches; 0: what `utilization` leaves
  double utilization = 0;     // share of the machine for everything; 0: a cautious part of the rest
  int64_t max_model_len = 0;  // 0: as long as the model and the memory allow
  int64_t max_num_seqs = 0;
  int64_t max_num_batched_tokens = 0;
  int64_t blocks = 0;  // for layers that see all; 0: as many as there is room for
  bool prefix_caching = true;
};

struct MemoryPlan {
  int64_t weights = 0, activations = 0, caches = 0;  // bytes
  int64_t block_tokens = 0;
  std::vector<int64_t> blocks;  // by group
  int64_t states = 0;           // slots, one for each running sequence and the rest for snapshots
  int64_t max_num_seqs = 0;
  int64_t max_model_len = 0;
  int64_t kv_tokens = 0;  // that the caches hold together

  // Sequences of max_model_len that find room together.
  double concurrency() const;
  // The plan in one line.
  std::string text() const;
};

// Bytes for all caches: what is wished for; or what is left of the share of the machine; or a
// quarter of what is available, and 16 GiB at most. Never more than is available beside weights and
// activations. Fails with Exit::memory where nothing is left or less than is wished for, and says
// which flags to change.
int64_t cache_budget(const MemoryNeeds& needs, const MemoryWishes& wishes,
                     const MachineMemory& machine);

// Fails with Exit::memory when one sequence of max_model_len, or the states of max_num_seqs, find
// no room; says what is needed, what there is, what would fit, and which flags to change.
MemoryPlan plan_memory(const MemoryNeeds& needs, const MemoryWishes& wishes,
                       const MachineMemory& machine);

}  // namespace quern::engine
