// Products of fp32 matrices of any size:
//
//   c[i, j] (+)= sum over k of a[i, k] * b[k, j]
//
// An element's sum is one chain of fused multiply-adds in the order of k, starting from 0 or from
// c. Its bits therefore depend only on its row of a and its column of b, not on the number of rows
// or columns, nor on the instruction set.
#pragma once

#include <cstdint>

namespace quern::kernels {

// A matrix in memory, row-major: element (i, j) at data[i * stride + j]; if `transposed`, it
// represents its transpose.
struct FloatMatrix {
  const float* data;
  int64_t stride;
  bool transposed = false;
};

struct FloatProduct {
  int64_t rows, columns, inner;
  FloatMatrix a;  // [rows, inner], after transposition
  FloatMatrix b;  // [inner, columns], likewise
  float* c;       // overlaps neither
  int64_t c_stride;
  bool accumulate = false;
};

// The sizes of the parts of the factors that are copied to be read front to back: rows of a,
// columns of b, and the inner dimension of both. Both parts together stay in L2.
constexpr int64_t kFloatRows = 96, kFloatColumns = 512, kFloatInner = 256;
// The stride of copied rows of a exceeds their length, because with a power of two, the elements of
// a column would compete for the same few sets of L1.
constexpr int64_t kFloatRowStride = kFloatInner + 16;
// Floats of scratch memory for a product.
constexpr int64_t kFloatScratch = kFloatRows * kFloatRowStride + kFloatColumns * kFloatInner;

}  // namespace quern::kernels
