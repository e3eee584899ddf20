// Products of large matrices with elements rounded to bf16 and fp32 sums, on processors that have
// an instruction for them; at least twice as fast as fp32.
//
//   c[i, j] (+)= sum over k of a[i, k] * b[k, j]
//
// Both factors are arranged first, and inner is padded with zeros to an even number. An element of
// c depends only on its row of a and its column of b, not on the number of rows or columns in a
// call.
#pragma once

#include <cstdint>

namespace quern::kernels {

// A factor in memory: element (i, j) is at i * stride + j.
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

// The right factor, arranged: panels of 32 columns, the last panel padded with zeros; each panel is
// bf16 [inner / 2, 32, 2], with adjacent pairs of elements of a column.
constexpr int64_t kBf16Panel = 32;
constexpr int64_t bf16_right_elements(int64_t inner, int64_t columns) {
  return (columns + kBf16Panel - 1) / kBf16Panel * kBf16Panel * bf16_padded(inner);
}

struct Bf16Matrix {
  // Arranges the left factor from `from` [rows, inner], or from its transpose [inner, rows].
  void (*left)(MatrixPlace<float> from, int64_t rows, int64_t inner, uint16_t* arranged);
  void (*left_transposed)(MatrixPlace<float> from, int64_t rows, int64_t inner, uint16_t* arranged);
  // Arranges the right factor from `from` [inner, columns], or from bf16 [columns, inner] with an
  // even inner.
  void (*right)(MatrixPlace<float> from, int64_t inner, int64_t columns, uint16_t* arranged);
  void (*right_bf16)(MatrixPlace<uint16_t> from, int64_t inner, int64_t columns,
                     uint16_t* arranged);
  void (*right_bf16_transposed)(MatrixPlace<uint16_t> from, int64_t inner, int64_t columns,
                                uint16_t* arranged);

  void (*product)(int64_t rows, int64_t columns, int64_t inner, const uint16_t* left,
                  const uint16_t* right, float* c, int64_t c_stride, bool accumulate);
};

}  // namespace quern::kernels
