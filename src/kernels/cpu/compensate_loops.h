// The kernels of compensate.h as plain loops over 16 lanes, which the compiler turns into vectors
// of each instruction set. Products and sums are rounded on their own, as the reference
// implementations round theirs. Everything has internal linkage, as in row_loops.h.
#pragma once

#include <algorithm>

#include "kernels/compensate.h"
#include "kernels/cpu/row_loops.h"

namespace quern::kernels {
namespace {

struct CompensateLoops {
  static constexpr int64_t kLanes = kCompensatedRows;

  // From column i to those after it.
  static void pass_on(const CompensatedColumns& block, int64_t i, const float* stored) {
    const float* u = block.upper + i * block.upper_stride;
    float* w = block.weights + i * kLanes;
    float error[kLanes];
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      error[lane] = (w[lane] - stored[lane]) / u[i];
      block.errors[i * kLanes + lane] = error[lane];
      w[lane] = stored[lane];
    }
    if (block.unpruned) return pass_on_unpruned(block, i, error);
    for (int64_t j = i + 1; j < block.columns; ++j) {
      float* to = block.weights + j * kLanes;
      for (int64_t lane = 0; lane < kLanes; ++lane) to[lane] -= error[lane] * u[j];
    }
  }

  static void pass_on_unpruned(const CompensatedColumns& block, int64_t i, const float* error) {
    const float* u = block.upper + i * block.upper_stride;
    for (int64_t j = i + 1; j < block.columns; ++j) {
      float* to = block.weights + j * kLanes;
      const float* moves = block.unpruned + j * kLanes;
      for (int64_t lane = 0; lane < kLanes; ++lane) to[lane] -= error[lane] * u[j] * moves[lane];
    }
  }

  template <FloatType type>
  static void round_as(const CompensatedColumns& block, const CompensatedGrid& grid,
                       uint8_t* codes) {
    const auto low = static_cast<float>(-grid.middle), high = static_cast<float>(grid.middle - 1);
    for (int64_t i = 0; i < block.columns; ++i) {
      const float *w = block.weights + i * kLanes, *scale = grid.scales + i * kLanes,
                  *zero = grid.zeros + i * kLanes;
      float stored[kLanes];
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        const int32_t code = nearest(clamp(w[lane] / scale[lane] + zero[lane], low, high));
        codes[i * kLanes + lane] = static_cast<uint8_t>(code + grid.middle);
        stored[lane] = round_to(type, (static_cast<float>(code) - zero[lane]) * scale[lane]);
      }
      pass_on(block, i, stored);
    }
  }

  static void round(const CompensatedColumns& block, const CompensatedGrid& grid, uint8_t* codes) {
    switch (grid.scale_type) {
      case FloatType::bf16:
        return round_as<FloatType::bf16>(block, grid, codes);
      case FloatType::fp16:
        return round_as<FloatType::fp16>(block, grid, codes);
      case FloatType::fp32:
        return round_as<FloatType::fp32>(block, grid, codes);
    }
  }

  static void prune(const CompensatedColumns& block, const uint8_t* pruned) {
    for (int64_t i = 0; i < block.columns; ++i) prune_column(block, i, pruned + i * kLanes);
  }

  static void prune_pattern(const CompensatedColumns& block, int64_t zeros, int64_t of) {
    for (int64_t first = 0; first < block.columns; first += of) {
      const int64_t end = std::min(first + of, block.columns);
      uint8_t pruned[kMaxPattern * kLanes] = {};
      for (int64_t lane = 0; lane < kLanes; ++lane) choose(block, first, end, zeros, lane, pruned);
      for (int64_t i = first; i < end; ++i) prune_column(block, i, pruned + (i - first) * kLanes);
    }
  }

 private:
  // Marks the numbers of [first, end) of a lane that cost the least.
  static void choose(const CompensatedColumns& block, int64_t first, int64_t end, int64_t zeros,
                     int64_t lane, uint8_t* pruned) {
    for (int64_t chosen = 0; chosen < zeros; ++chosen) {
      int64_t least = -1;
      float cost = 0;
      for (int64_t i = first; i < end; ++i) {
        if (pruned[(i - first) * kLanes + lane]) continue;
        const float of_this =
            pruning_cost(block.weights[i * kLanes + lane], block.upper[i * block.upper_stride + i]);
        if (least >= 0 && of_this >= cost) continue;
        least = i;
        cost = of_this;
      }
      pruned[(least - first) * kLanes + lane] = 1;
    }
  }

  static void prune_column(const CompensatedColumns& block, int64_t i, const uint8_t* pruned) {
    const float* w = block.weights + i * kLanes;
    float stored[kLanes];
    for (int64_t lane = 0; lane < kLanes; ++lane) stored[lane] = pruned[lane] ? 0.0f : w[lane];
    pass_on(block, i, stored);
  }

 public:
  static constexpr CompensateKernels kTable = {round, prune, prune_pattern};
};

}  // namespace
}  // namespace quern::kernels
