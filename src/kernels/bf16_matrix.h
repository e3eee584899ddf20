// Products of large matrices whose elements are rounded to bf16 and whose sums are fp32, on
// processors that have an instruction for it: twice the speed of fp32 or more.
//
//   c[i, j] (+)= sum over k of a[i, k] * b[k, j]
//
// Both factors are arranged first, from whatever they lie in, and inner is padded with zeros to an
// even number. An element of c depends on its row of a and its column of b alone, not on how many
// of them there are in a call.
#pragma once

#include <cstdint>

namespace quern::kernels {

// Where a factor lies: element (i, j) at i * stride + j.
template <class T>
struct MatrixPlace {
  const T* data;
  int64_t stride;
};

constexpr int64_t bf16_padded(int64_t inner) { return (inner + 1) / 2 * 2; }

// The left factor, arranged: bf16 [rows, bf16_padded(inner)].
constexpr int64_t bf16_left_elements(int64_t rows, int64_t inner) {
  return rows * bf16_padded(inner);
}

// The right factor, arranged: panels of 32 columns, the last one padded with zeros; in each
// bf16 [inner / 2, 32, 2], two elements of a column beside each other.
constexpr int64_t kBf16Panel = 32;
constexpr int64_t bf16_right_elements(int64_t inner, int64_t columns) {
  return (columns + kBf16Panel - 1) / kBf16Panel * kBf16Panel * bf16_padded(inner);
}

struct Bf16Matrix {
  // The left factor from `from` [rows, inner], or from its transpose [inner, rows].
  void (*left)(MatrixPlace<float> from, int64_t rows, int64_t inner, uint16_t* arranged);
  void (*left_transposed)(MatrixPlace<float> from, int64_t rows, int64_t inner, uint16_t* arranged);
  // The right factor from `from` [inner, columns], or from bf16 [columns, inner] with an even
  // inner.
  void (*right)(MatrixPlace<float> from, int64_t inner, int64_t columns, uint16_t* arranged);
  void (*right_bf16)(MatrixPlace<uint16_t> from, int64_t inner, int64_t columns,
                     uint16_t* arranged);
  void (*right_bf16_transposed)(MatrixPlace<uint16_t> from, int64_t inner, int64_t columns,
                                uint16_t* arranged);

  void (*product)(int64_t rows, int64_t columns, int64_t inner, const uint16_t* left,
                  const uint16_t* right, float* c, int64_t c_stride, bool accumulate);
};

}  // namespace quern::kernels
