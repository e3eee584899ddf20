// Round to nearest: turns a weight into codes, scales and zeros. The grids equal those of
// llm-compressor and auto-round bit for bit:
//
//   compressed_tensors: symmetric, scale = absmax / 7.5; asymmetric, (max - min) / 15. Every step
//   is rounded to the weight's dtype; the quotient is clamped, then rounded half to even; the scale
//   of a group of zeros is the dtype's epsilon.
//
//   auto_round: symmetric, the extreme with the largest magnitude maps to code 0 (-8), which uses
//   all 16 codes; the scale is negative where the maximum dominates or ties; asymmetric,
//   (max - min) / 15. The scale is rounded to its dtype, then its magnitude is raised to at least
//   1e-5; the quotient is rounded, then clamped.
//
//   awq: symmetric, scale = absmax / 7; asymmetric, (max - min) / 15; the range is at least 1e-5.
//   The quotient is rounded, then clamped. The search of llm-compressor's AWQ up to 0.10 tries
//   scales on this grid; nothing is stored on it.
//
// 7.5, 7, 15 and 8 are the values for int4; other integers have others.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "quant/scheme.h"
#include "tensor/tensor.h"

namespace quern::quant {

enum class Grid { compressed_tensors, auto_round, awq };

// How the range of a group is chosen. minmax: its extremes. mse: the extremes shrunk by the step
// with the smallest sum of |error|^norm. A weight is observed once, so the running observers of the
// peers (minmax, static_minmax, mse) equal the memoryless ones.
enum class Observer { minmax, mse };

// "memoryless_minmax" and its relatives; none for an unknown name.
std::optional<Observer> observer_named(std::string_view name);

// The shrink steps are 1 - i / grid for i below maxshrink * grid; the search stops for the whole
// tensor after `patience` consecutive steps that improve no group.
struct ShrinkSearch {
  double maxshrink = 0.2;
  double grid = 100;
  double norm = 2.4;
  int patience = 5;
};

struct RtnOptions {
  Grid grid = Grid::compressed_tensors;
  Observer observer = Observer::minmax;  // compressed_tensors only
  ShrinkSearch shrink = {};
  // auto_round, symmetric: tries 200 scales around the scale of auto_round above and keeps the one
  // with the smallest sum of importance * error^2. `importance`: fp32 [in], undefined for all ones.
  bool search_scale = false;
  Tensor importance = {};
  std::string name = {};  // of the weight, for messages
};

// The scale and zero of one group, and how its codes are made (quant/rows.h), for callers with
// their own rounding. `low` <= 0 <= `high` are the extremes of the group.
struct GridPoint {
  float scale = 1;
  int zero = 0;
};
GridPoint minmax_point(Grid grid, const Scheme& scheme, DType weight_dtype, float low, float high);

// weight: bf16, fp16 or fp32 [out, in] or [experts, out, in], with contiguous rows (it may be a
// view, or mapped memory). Scales are rounded to the scheme's scale_dtype. Fails, with the name, on
// NaN, on infinity, on scales that overflow, and when the group size does not divide the columns.
QuantWeight round_to_nearest(const Tensor& weight, const Scheme& scheme,
                             const RtnOptions& options = {});

}  // namespace quern::quant
