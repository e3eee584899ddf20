// What compress() reports while it works and when it is done.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "compress/resolve.h"

namespace quern::compress {

struct ExpertTokens {
  int64_t least = 0, median = 0;
  int64_t dead = 0;  // experts that no calibration token reached
};

// `pairs_per_expert`: counts for one block; empty for a block without experts.
ExpertTokens expert_tokens(std::vector<int64_t> pairs_per_expert);

struct BlockReport {
  int block = 0, blocks = 0;
  std::string name;     // "model.language_model.layers.3"
  int64_t linears = 0;  // that were quantized
  // Before the first and after the last step that tuned weights in the block; 0 without
  // calibration.
  double loss_before = 0, loss_after = 0;
  int best_iteration = 0;
  std::vector<std::string> warnings = {};
  ExpertTokens expert_tokens;
  double seconds = 0;
  size_t peak_memory_bytes = 0;  // of the process so far
};

// Called while compress() works, always from the calling thread.
struct Progress {
  std::function<void(int block, int blocks, const std::string& name)> block_begins;
  std::function<void(int iteration, int iterations)> iteration_done;
  std::function<void(const BlockReport&)> block_done;
};

// Runs `work` on the block, reports when it begins and ends, and measures it.
BlockReport timed(BlockReport begun, const Progress& progress,
                  const std::function<void(BlockReport&)>& work);

struct CompressReport {
  std::vector<std::string> warnings;  // of the recipe and of the blocks
  std::vector<std::string> dropped;   // tensors of the source that were omitted
  std::vector<BlockReport> blocks;
  std::vector<Verdict> verdicts;              // of every linear, in the order of the model
  size_t source_bytes = 0, output_bytes = 0;  // of all tensors
  double seconds = 0;
};

}  // namespace quern::compress
