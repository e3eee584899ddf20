// Products of fp32 matrices of any size:
//
//   c[i, j] (+)= sum over k of a[i, k] * b[k, j]
//
// An element's sum is one chain of fused multiply-adds in the order of k, which starts from 0, or
// from what c holds. So its bits depend on its row of a and its column of b alone: not on how many
// of them there are, nor on the instruction set.
#pragma once

#include <cstdint>

namespace quern::kernels {

// A matrix in memory, row-major: element (i, j) at data[i * stride + j]; if `transposed`, it
// stands for its transpose.
struct FloatMatrix {
  const float* data;
  int64_t stride;
  bool transposed = false;
};

struct FloatProduct {
  int64_t rows, columns, inner;
  FloatMatrix a;  // [rows, inner], as it stands after transposition
  FloatMatrix b;  // [inner, columns], the same
  float* c;       // overlaps neither
  int64_t c_stride;
  bool accumulate = false;
};

// Parts of the factors are copied so that they are read front to back: of a, so many rows, of b, so
// many columns, of both so many inner numbers. Together they stay in the second cache.
constexpr int64_t kFloatRows = 96, kFloatColumns = 512, kFloatInner = 256;
// Rows of a are a little further apart than they are long: a power of two would put the same
// column of all of them into the same few places of the first cache.
constexpr int64_t kFloatRowStride = kFloatInner + 16;
// Floats of scratch memory that a product takes.
constexpr int64_t kFloatScratch = kFloatRows * kFloatRowStride + kFloatColumns * kFloatInner;

}  // namespace quern::kernels
