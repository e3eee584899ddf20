// Round to nearest: from a weight to codes, scales and zeros. The two grids are those of the two
// tools whose files the world reads, bit for bit:
//
//   compressed_tensors: symmetric, scale = absmax / 7.5; asymmetric, (max - min) / 15. Every step
//   is rounded to the weight's dtype; the quotient is clamped, then rounded half to even; a group
//   of zeros has the dtype's epsilon for a scale.
//
//   auto_round: symmetric, the extreme of largest magnitude maps to code 0 (-8), so that all 16
//   codes are used and the scale is negative where the maximum dominates or ties; asymmetric,
//   (max - min) / 15. The scale is rounded to its dtype, then kept at least 1e-5 away from zero;
//   the quotient is rounded, then clamped.
//
// 7.5, 15 and 8 are those of int4; other integers have theirs.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "quant/scheme.h"
#include "tensor/tensor.h"

namespace quern::quant {

enum class Grid { compressed_tensors, auto_round };

// What chooses the range of a group. minmax: its extremes. mse: the extremes shrunk by the step
// that makes the sum of |error|^norm smallest. A weight is seen once, so the running forms of the
// peers (minmax, static_minmax, mse) equal the memoryless ones.
enum class Observer { minmax, mse };

// "memoryless_minmax" and its relatives; none for a name that is not known.
std::optional<Observer> observer_named(std::string_view name);

// The shrink steps are 1 - i / grid for i below maxshrink * grid; the search stops for the whole
// tensor after `patience` steps that improved no group.
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
  // auto_round, symmetric: tries 200 scales around the one above and keeps the one with the least
  // sum of importance * error^2. `importance`: fp32 [in], undefined for all ones.
  bool search_scale = false;
  Tensor importance = {};
  std::string name = {};  // of the weight, for messages
};

// One scale and zero of a group, and how its codes are made (quant/rows.h), for those who round in
// their own way. `low` <= 0 <= `high` are the extremes of the group.
struct Step {
  float scale = 1;
  int zero = 0;
};
Step minmax_step(Grid grid, const Scheme& scheme, DType weight_dtype, float low, float high);

// weight: bf16, fp16 or fp32 [out, in] or [experts, out, in], with contiguous rows (it may be a
// view, or mapped memory). The scheme's scale_dtype is what the scales are rounded to. Fails, with
// the name, on NaN, on infinity, on scales that overflow and when the groups do not divide the
// columns.
QuantWeight round_to_nearest(const Tensor& weight, const Scheme& scheme,
                             const RtnOptions& options = {});

}  // namespace quern::quant
