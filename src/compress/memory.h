// How much memory compress() will hold at its peak, predicted from shapes, so that a job that
// cannot fit is refused before hours of work. Pages of the mapped checkpoint are not counted,
// because the kernel can take them back.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "compress/compress.h"
#include "compress/plan.h"
#include "nn/model.h"

namespace quern::compress {

// Calibration windows, as far as memory depends on them.
struct WindowSizes {
  int64_t windows = 0, tokens = 0, longest = 0;  // tokens: of all windows

  static WindowSizes of(const Calibration& calibration);
};

// Bytes.
struct MemoryNeed {
  int64_t activations = 0;  // of all windows, of the original model and of the packed blocks
  int64_t weights = 0;      // of the largest block: codes, scales and the state of their tuning
  int64_t pass = 0;         // what lies between the products of one micro-batch

  int64_t total() const { return activations + weights + pass; }
};

// Without windows nothing is calibrated, and only the weights count. A test holds the estimate
// against what a job takes.
MemoryNeed memory_need(const nn::Model& model, const nn::Weights& root,
                       const std::vector<nn::LinearSite>& sites, const Plan& plan,
                       const Recipe& recipe, const WindowSizes& sizes,
                       const CompressOptions& options);

// "15.20 GiB: 4.00 GiB of activations, ..."
std::string to_text(const MemoryNeed& need);

// Fails with Exit::infeasible, saying what would take less, when `available` bytes do not suffice.
void check_memory(const MemoryNeed& need, int64_t available);

}  // namespace quern::compress
