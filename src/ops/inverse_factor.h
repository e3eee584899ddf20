// The factor that GPTQ and SparseGPT go by: of the Gram matrix H of a linear's inputs, the upper
// triangular U with H^-1 = U^T U.
#pragma once

#include <cstdint>
#include <vector>

#include "tensor/tensor.h"

namespace quern::ops {

struct InverseFactor {
  std::vector<int64_t> order;  // the column of the weight at each place
  std::vector<uint8_t> dead;   // of each column of the weight: it is never multiplied by anything
  Tensor upper;                // fp32 [columns, columns], in that order
  double dampening = 0;        // that sufficed; 0: none did, and `upper` is the identity
};

// gram: fp32 [columns, columns], whose upper triangle is read. A dead column's weights count as
// zero. `dampening` times the mean of the diagonal is added to the diagonal, if that is not enough
// 2, 5 and 10 times as much. by_activation: columns in the falling order of the diagonal, equal
// ones in theirs.
//
// H = R R^T with R upper triangular is Cholesky's factorization from the last row on, and U = R^-1:
// the same U as by two factorizations and an inverse between them, for a third of the operations.
InverseFactor inverse_factor(const Tensor& gram, double dampening, bool by_activation);

}  // namespace quern::ops
