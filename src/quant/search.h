// The two searches that choose a scale by its error: llm-compressor's mse observer shrinks the
// range of a group; auto-round's optimised RTN varies the scale around the one that maps the
// extreme to -8.
#pragma once

#include <cstdint>
#include <vector>

#include "quant/grid.h"
#include "quant/rows.h"

namespace quern::quant {

// The range after `step` shrink steps, rounded to the weight's dtype.
Range shrunk(const Range& range, const ShrinkSearch& search, int step, DType weight_dtype);

// The best shrink step of every group of every row, [rows * groups]. Errors are summed in fp32.
std::vector<int> best_shrinks(const Tensor& weight, const Scheme& scheme,
                              const RtnOptions& options);

// Columns of a group that no token reached (importance 0) get the mean of the others.
void fill_unseen(float* importance, int64_t count);

// The symmetric scale, in the scheme's dtype, with the smallest sum of importance * error^2.
float searched_scale(const Scheme& scheme, const float* x, const float* importance, int64_t count);

// Applies auto-round's smallest magnitude, 1e-5 (1e-8 in fp32), and keeps the sign; zero becomes
// positive.
float away_from_zero(DType scale_dtype, float scale);

}  // namespace quern::quant
