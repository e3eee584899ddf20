// The peak memory of compress(), predicted from shapes, to refuse a job that cannot fit before
// hours of work. Pages of the mapped checkpoint are not counted, because the operating system can
// reclaim them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "compress/compress.h"
#include "compress/plan.h"
#include "nn/model.h"

namespace quern::compress {

// The sizes of the calibration windows that determine memory.
struct WindowSizes {
  int64_t windows = 0, tokens = 0, longest = 0;  // tokens: of all windows

  static WindowSizes of(const Calibration& calibration);
};

// Bytes.
struct MemoryNeed {
  int64_t activations = 0;  // of all windows: from the original blocks and from the packed blocks
  int64_t weights = 0;      // of the largest block: codes, scales and tuning state
  int64_t pass = 0;         // intermediate results of one micro-batch

  int64_t total() const { return activations + weights + pass; }
};

// Without windows nothing is calibrated, and only the weights count. A test compares the estimate
// with the memory that a job uses.
MemoryNeed memory_need(const nn::Model& model, const nn::Weights& root,
                       const std::vector<nn::LinearSite>& sites, const Plan& plan,
                       const Recipe& recipe, const WindowSizes& sizes,
                       const CompressOptions& options);

// "15.20 GiB: 4.00 GiB for activations, ..."
std::string to_text(const MemoryNeed& need);

// Fails with Exit::infeasible when `available` bytes do not suffice, and says which settings need
// less.
void check_memory(const MemoryNeed& need, int64_t available);

}  // namespace quern::compress
