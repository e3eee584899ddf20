// Single-precision matrix product on one thread, from LibTorch's BLAS. Callers cut the work into
// tiles of fixed size and run them by parallel_for; the bits then do not depend on the number of
// threads, as those of at::matmul do.
#pragma once

#include <cstdint>

namespace quern {

enum class Transpose { no, yes };

// A matrix in memory, row-major: element (i, j) at data[i * stride + j]; with Transpose::yes it
// stands for its transpose.
struct MatrixView {
  const float* data;
  int64_t stride;
  Transpose transpose = Transpose::no;
};

// c[rows, columns] = a[rows, inner] b[inner, columns] (+ c if accumulate); a and b as they stand
// after transposition.
void sgemm(int64_t rows, int64_t columns, int64_t inner, MatrixView a, MatrixView b, float* c,
           int64_t c_stride, bool accumulate = false);

}  // namespace quern
