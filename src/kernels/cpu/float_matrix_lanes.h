// Products of fp32 matrices over 16 lanes, written once for all instruction sets: `L` supplies the
// vector of 16 floats and the size of a tile of c.
#pragma once

#include <utility>

#include "kernels/cpu/repeat.h"
#include "kernels/kernels.h"

namespace quern::kernels {

template <class L>
struct FloatMatrixKernels {
  // `scratch` has kFloatScratch floats.
  static void product(const FloatProduct& p, float* scratch) {
    float *a = scratch, *b = scratch + kFloatRows * kFloatRowStride;
    if (p.inner == 0 && !p.accumulate) clear(p);
    for (int64_t k = 0; k < p.inner; k += kFloatInner) {
      const int64_t inner = smaller(kFloatInner, p.inner - k);
      const bool accumulate = p.accumulate || k > 0;
      for (int64_t j = 0; j < p.columns; j += kFloatColumns) {
        const int64_t columns = smaller(kFloatColumns, p.columns - j);
        copy_panels(p.b, k, inner, j, columns, b);
        for (int64_t i = 0; i < p.rows; i += kFloatRows) {
          const int64_t rows = smaller(kFloatRows, p.rows - i);
          copy_rows(p.a, i, rows, k, inner, a);
          const Part part = {rows,       columns,   inner, a, b, p.c + i * p.c_stride + j,
                             p.c_stride, accumulate};
          p.a.transposed ? multiply_part<true>(part) : multiply_part<false>(part);
        }
      }
    }
  }

 private:
  using Floats = typename L::Floats;
  // A tile of c has kRows rows and kVectors vectors of columns. All its sums stay in registers.
  static constexpr int kRows = L::kProductRows, kVectors = L::kProductVectors;
  static constexpr int64_t kPanel = 16 * kVectors;
  static_assert(kFloatRows % kRows == 0 && kFloatColumns % kPanel == 0);

  // Copied parts of the factors, and their place in c.
  struct Part {
    int64_t rows, columns, inner;
    const float *a, *b;
    float* c;
    int64_t c_stride;
    bool accumulate;
  };

  static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

  static void clear(const FloatProduct& p) {
    for (int64_t i = 0; i < p.rows; ++i)
      for (int64_t j = 0; j < p.columns; ++j) p.c[i * p.c_stride + j] = 0;
  }

  // Copies a: rows, kFloatRowStride apart; a transposed a: tiles of kRows rows, [inner, kRows].
  static void copy_rows(const FloatMatrix& from, int64_t i, int64_t rows, int64_t k, int64_t inner,
                        float* out) {
    if (from.transposed) {
      for (int64_t tile = 0; tile < rows; tile += kRows, out += kRows * kFloatInner) {
        const float* column = from.data + k * from.stride + i + tile;
        const int64_t count = smaller(kRows, rows - tile);
        for (int64_t n = 0; n < inner; ++n, column += from.stride)
          for (int64_t r = 0; r < count; ++r) out[n * kRows + r] = column[r];
      }
      return;
    }
    for (int64_t r = 0; r < rows; ++r, out += kFloatRowStride) {
      const float* row = from.data + (i + r) * from.stride + k;
      int64_t n = 0;
      for (; n + 16 <= inner; n += 16) L::store(out + n, L::load(row + n));
      for (; n < inner; ++n) out[n] = row[n];
    }
  }

  // Copies b: panels [inner, kPanel], the last one padded with zeros.
  static void copy_panels(const FloatMatrix& from, int64_t k, int64_t inner, int64_t j,
                          int64_t columns, float* out) {
    for (int64_t first = 0; first < columns; first += kPanel, out += kPanel * inner) {
      for (int64_t lane = 0; lane < kPanel; lane += 16) {
        const int64_t column = first + lane, count = smaller(16, columns - column);
        if (from.transposed)
          copy_turned(from.data + (j + column) * from.stride + k, from.stride, inner, count,
                      out + lane);
        else
          copy_columns(from.data + k * from.stride + j + column, from.stride, inner, count,
                       out + lane);
      }
    }
  }

  static void copy_columns(const float* from, int64_t stride, int64_t inner, int64_t count,
                           float* out) {
    for (int64_t n = 0; n < inner; ++n, from += stride, out += kPanel) {
      if (count == 16) {
        L::store(out, L::load(from));
        continue;
      }
      for (int64_t c = 0; c < 16; ++c) out[c] = c < count ? from[c] : 0;
    }
  }

  // Copies columns of b that are stored as rows, in squares of 16 by 16.
  static void copy_turned(const float* from, int64_t stride, int64_t inner, int64_t count,
                          float* out) {
    int64_t n = 0;
    for (; count == 16 && n + 16 <= inner; n += 16) {
      Floats square[16];
      repeat<16>([&](auto i) { square[i] = L::load(from + i * stride + n); });
      L::transpose(square);
      repeat<16>([&](auto i) { L::store(out + (n + i) * kPanel, square[i]); });
    }
    for (; n < inner; ++n)
      for (int64_t c = 0; c < 16; ++c) out[n * kPanel + c] = c < count ? from[c * stride + n] : 0;
  }

  // A tile's rows stay in L1 for all panels.
  template <bool kTurned>
  static void multiply_part(const Part& part) {
    for (int64_t row = 0; row < part.rows; row += kRows) {
      const int64_t rows = smaller(kRows, part.rows - row);
      const auto multiply = tile<kTurned>(rows);
      const float* a = part.a + row * (kTurned ? kFloatInner : kFloatRowStride);
      for (int64_t column = 0; column < part.columns; column += kPanel) {
        const float* b = part.b + column * part.inner;
        float* c = part.c + row * part.c_stride + column;
        const int64_t columns = part.columns - column;
        if (columns >= kPanel)
          multiply(a, b, part.inner, c, part.c_stride, part.accumulate);
        else
          multiply_edge(multiply, part, a, b, rows, columns, c);
      }
    }
  }

  using Multiply = void (*)(const float* a, const float* b, int64_t inner, float* c,
                            int64_t c_stride, bool accumulate);

  // A tile that extends beyond c's last column uses a separate buffer.
  static void multiply_edge(Multiply multiply, const Part& part, const float* a, const float* b,
                            int64_t rows, int64_t columns, float* c) {
    float whole[kRows * kPanel] = {};
    for (int64_t r = 0; part.accumulate && r < rows; ++r)
      for (int64_t j = 0; j < columns; ++j) whole[r * kPanel + j] = c[r * part.c_stride + j];
    multiply(a, b, part.inner, whole, kPanel, part.accumulate);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t j = 0; j < columns; ++j) c[r * part.c_stride + j] = whole[r * kPanel + j];
  }

  template <bool kTurned, int kCount>
  static void multiply_tile(const float* a, const float* b, int64_t inner, float* c,
                            int64_t c_stride, bool accumulate) {
    constexpr int64_t kRow = kTurned ? 1 : kFloatRowStride, kNext = kTurned ? kRows : 1;
    Floats sums[kCount * kVectors];
    repeat<kCount>([&](auto r) {
      repeat<kVectors>([&](auto v) {
        sums[r * kVectors + v] = accumulate ? L::load(c + r * c_stride + 16 * v) : L::splat(0);
      });
    });
    for (int64_t k = 0; k < inner; ++k, a += kNext, b += kPanel) {
      Floats bs[kVectors];
      repeat<kVectors>([&](auto v) { bs[v] = L::load(b + 16 * v); });
      repeat<kCount>([&](auto r) {
        const Floats factor = L::splat(a[r * kRow]);
        repeat<kVectors>([&](auto v) {
          sums[r * kVectors + v] = L::fma(factor, bs[v], sums[r * kVectors + v]);
        });
      });
    }
    repeat<kCount>([&](auto r) {
      repeat<kVectors>(
          [&](auto v) { L::store(c + r * c_stride + 16 * v, sums[r * kVectors + v]); });
    });
  }

  template <bool kTurned, int... kIndex>
  static Multiply tile_of(int64_t rows, std::integer_sequence<int, kIndex...>) {
    static constexpr Multiply kTiles[] = {multiply_tile<kTurned, kIndex + 1>...};
    return kTiles[rows - 1];
  }
  template <bool kTurned>
  static Multiply tile(int64_t rows) {
    return tile_of<kTurned>(rows, std::make_integer_sequence<int, kRows>());
  }
};

}  // namespace quern::kernels
