// Weights that are rounded or pruned column after column, where the columns to come make up for the
// error in the output of the linear: GPTQ and SparseGPT (kernels/compensate.h).
#pragma once

#include <cstdint>

#include "ops/inverse_factor.h"
#include "quant/scheme.h"
#include "tensor/tensor.h"

namespace quern::ops {

struct CompensatedOptions {
  int64_t block = 128;  // columns before the rest of a row is updated; all, if there are fewer
  // Weights that are zero stay so: no error reaches them.
  bool keep_zeros = false;
};

struct CompensatedCodes {
  quant::QuantWeight weight;
  double loss =
      0;  // sum over weights of ((w - q) / U[i, i])^2 / 2: what the output's error grows by
};

// The codes of `weight`, bf16, fp16 or fp32 [rows, columns], on the grid of `start`: its scales and
// zeros. Work is cut into tiles of rows, which do not depend on each other.
CompensatedCodes compensated_codes(const Tensor& weight, const InverseFactor& factor,
                                   const quant::QuantWeight& start,
                                   const CompensatedOptions& options);

// Which weights become zero.
struct Pruning {
  double share = 0;           // of the weights of each block of columns, over all rows
  int64_t zeros = 0, of = 0;  // or so many of every so many of a row; of = 0: any
};

struct PrunedWeight {
  Tensor weight;  // of the given dtype
  double loss = 0;
};

// The weights become zero that cost the least, (w / U[i, i])^2 when their block of columns or their
// pattern is reached: of each block, over all rows, as many as come to `share` and one more (ties
// too); or of each pattern. A pattern divides the block and the columns, and has at most
// kernels::kMaxPattern columns.
PrunedWeight pruned(const Tensor& weight, const InverseFactor& factor, const Pruning& pruning,
                    const CompensatedOptions& options);

}  // namespace quern::ops
