// The column loop of GPTQ and SparseGPT: a column of a weight is replaced by numbers that can be
// stored, and the columns after it make up for the error (Frantar et al., "GPTQ", 2022, algorithm
// 1; Frantar and Alistarh, "SparseGPT", 2023). Rows are independent, so kernels work on a tile
// of 16.
#pragma once

#include <cstdint>

#include "kernels/floats.h"

namespace quern::kernels {

constexpr int64_t kCompensatedRows = 16;  // of a tile

// A block of columns of a tile. Numbers lie column after column, [columns][16].
struct CompensatedColumns {
  int64_t columns;
  // The upper factor U of H^-1 = U^T U where rows and columns are those of the block.
  const float* upper;
  int64_t upper_stride;
  float* weights;  // in: w; out: what is stored, q
  float* errors;   // out: (w - q) / U[i, i]
  const float*
      unpruned;  // 1, or 0 for weights that stay as they are: no error reaches them; or null
};

// The grid of each number, with the middle m of an element of 2 m codes and the zero z:
//   code = round(clamp(w / s + (z - m), -m, m - 1)) + m, q = s * (code - z) rounded to scale_type.
struct CompensatedGrid {
  int middle;
  const float* scales;  // [columns][16]
  const float* zeros;   // z - m, [columns][16]
  FloatType scale_type;
};

// Columns of a pattern at most.
constexpr int64_t kMaxPattern = 64;

// What a weight adds to the error of the output when it becomes zero, up to a factor.
[[maybe_unused]] static float pruning_cost(float weight, float diagonal) {
  return weight * weight / (diagonal * diagonal);
}

struct CompensateKernels {
  // Rounds column after column to its grid; codes [columns][16], one a byte.
  void (*round)(const CompensatedColumns& block, const CompensatedGrid& grid, uint8_t* codes);
  // Sets the numbers to zero for which `pruned` [columns][16] is not 0.
  void (*prune)(const CompensatedColumns& block, const uint8_t* pruned);
  // Sets to zero `zeros` of every `of` numbers of a row (at most kMaxPattern; a divisor of
  // columns): those whose (w / U[i, i])^2 are the least when the first of them is reached; of equal
  // ones the first.
  void (*prune_pattern)(const CompensatedColumns& block, int64_t zeros, int64_t of);
};

}  // namespace quern::kernels
