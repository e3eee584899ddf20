// Products with dense weights for a few tokens, and conversions to fp32, over 16 lanes, written
// once for all instruction sets: `L` supplies the vector of 16 floats.
#pragma once

#include <utility>

#include "kernels/cpu/repeat.h"
#include "kernels/kernels.h"

namespace quern::kernels {

template <class L>
struct DenseKernels {
  // Several rows hide the latency of multiply-adds, and tokens share loads; all sums of a tile stay
  // in registers. The bits do not depend on the size of the tile.
  static constexpr int kRows = L::kDenseTile, kTokens = L::kDenseTile;

  static void convert_bf16(const uint16_t* values, int64_t count, float* out) {
    convert<FloatType::bf16>(values, count, out);
  }
  static void convert_fp16(const uint16_t* values, int64_t count, float* out) {
    convert<FloatType::fp16>(values, count, out);
  }

  static void product(const DenseShape& shape, const void* weight, const float* x, int64_t tokens,
                      int64_t begin, int64_t end, float* out) {
    const auto product = shape.type == FloatType::bf16   ? product_of<FloatType::bf16>
                         : shape.type == FloatType::fp16 ? product_of<FloatType::fp16>
                                                         : product_of<FloatType::fp32>;
    product(shape, weight, x, tokens, begin, end, out);
  }

 private:
  using Floats = typename L::Floats;
  using Tile = void (*)(const DenseShape& shape, const void* weight, const float* x, float* out);

  template <FloatType kType>
  static void product_of(const DenseShape& shape, const void* weight, const float* x,
                         int64_t tokens, int64_t begin, int64_t end, float* out) {
    for (int64_t row = begin; row < end; row += kRows) {
      const int64_t rows = end - row < kRows ? end - row : kRows;
      const void* w = element<kType>(weight, row * shape.columns);
      for (int64_t t = 0; t < tokens; t += kTokens) {
        const int64_t left = tokens - t < kTokens ? tokens - t : kTokens;
        tile<kType>(rows, left)(shape, w, x + t * shape.columns, out + t * shape.rows + row);
      }
    }
  }

  template <FloatType kType>
  static const void* element(const void* weight, int64_t index) {
    return static_cast<const uint8_t*>(weight) + index * float_bytes(kType);
  }

  template <FloatType kType>
  static void convert(const uint16_t* values, int64_t count, float* out) {
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) L::store(out + i, L::template load_as<kType>(values, i));
    for (; i < count; ++i) out[i] = load_float(kType, values, i);
  }

  template <FloatType kType, int kR, int kT>
  static void multiply(const DenseShape& shape, const void* weight, const float* x, float* out) {
    constexpr int64_t kLine = 64 / float_bytes(kType);  // elements
    const int64_t columns = shape.columns, whole = columns / 16 * 16;
    const int64_t distance = prefetch_distance(kR * columns, kLine);
    Floats sums[kR * kT];
    repeat<kR * kT>([&](auto i) { sums[i] = L::splat(0); });
    for (int64_t k = 0; k < whole; k += 16) {
      Floats xs[kT];
      repeat<kT>([&](auto t) { xs[t] = L::load(x + t * columns + k); });
      repeat<kR>([&](auto r) {
        if (k % kLine == 0) prefetch(element<kType>(weight, distance + kR * k + kLine * r));
        const Floats w = L::template load_as<kType>(weight, r * columns + k);
        repeat<kT>([&](auto t) { sums[r * kT + t] = L::fma(w, xs[t], sums[r * kT + t]); });
      });
    }
    if (whole < columns) add_rest<kType, kR, kT>(columns, whole, weight, x, sums);
    repeat<kR>([&](auto r) {
      repeat<kT>([&](auto t) { out[t * shape.rows + r] = L::sum(sums[r * kT + t]); });
    });
  }

  // The remaining columns, fewer than 16, padded with zeros.
  template <FloatType kType, int kR, int kT>
  static void add_rest(int64_t columns, int64_t whole, const void* weight, const float* x,
                       Floats* sums) {
    repeat<kR>([&](auto r) {
      repeat<kT>([&](auto t) {
        float w[16] = {}, padded[16] = {};
        for (int64_t k = whole; k < columns; ++k) {
          w[k - whole] = load_float(kType, weight, r * columns + k);
          padded[k - whole] = x[t * columns + k];
        }
        Floats& sum = sums[r * kT + t];
        sum = L::fma(L::load(w), L::load(padded), sum);
      });
    });
  }

  // The prefetch distance in elements: at least 512 lines, and always beyond the current tile. The
  // rows of a tile are read in parallel, but memory delivers one stream fastest, so the next rows
  // are prefetched front to back, one line per line read, into L2, because L1 is too small for all
  // of them.
  static int64_t prefetch_distance(int64_t tile, int64_t line) {
    return tile < 512 * line ? 512 * line : tile;
  }
  static void prefetch(const void* p) { __builtin_prefetch(p, /*write=*/0, /*locality=*/2); }

  template <FloatType kType, size_t... kI>
  static Tile tile_of(size_t index, std::index_sequence<kI...>) {
    static constexpr Tile kTiles[] = {multiply<kType, kI / kTokens + 1, kI % kTokens + 1>...};
    return kTiles[index];
  }
  template <FloatType kType>
  static Tile tile(int64_t rows, int64_t tokens) {
    const auto index = static_cast<size_t>((rows - 1) * kTokens + tokens - 1);
    return tile_of<kType>(index, std::make_index_sequence<kRows * kTokens>());
  }
};

}  // namespace quern::kernels
