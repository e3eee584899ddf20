// The layout of an arranged weight and the grid of a piece of activations, for the int4 kernels of
// all instruction sets.
#pragma once

#include "kernels/floats.h"
#include "kernels/int4.h"

namespace quern::kernels {

struct Int4Block {
  const uint8_t* scales;
  const uint8_t* zeros;  // null if symmetric
  const uint8_t* codes;
};

// Sizes derived from a shape by divisions, computed once per kernel call.
struct Int4Layout {
  int64_t pieces;
  int64_t scale_bytes, zero_bytes, block_bytes;
};

[[maybe_unused]] static int64_t whole_lines(int64_t bytes) { return (bytes + 63) / 64 * 64; }

[[maybe_unused]] static Int4Layout int4_layout(const Int4Shape& shape) {
  const int64_t entries = shape.groups() * kInt4RowBlock;
  const int64_t scale_bytes = whole_lines(entries * float_bytes(shape.scale_type));
  const int64_t zero_bytes = shape.symmetric ? 0 : whole_lines(entries);
  return {shape.pieces(), scale_bytes, zero_bytes,
          scale_bytes + zero_bytes + shape.columns / 2 * kInt4RowBlock};
}

[[maybe_unused]] static Int4Block int4_block(const Int4Layout& layout, const uint8_t* arranged,
                                             int64_t index) {
  const uint8_t* scales = arranged + index * layout.block_bytes;
  const uint8_t* zeros = scales + layout.scale_bytes;
  return {scales, layout.zero_bytes ? zeros : nullptr, zeros + layout.zero_bytes};
}

// Calls body(group, first column, columns) for every piece of a row, in order.
template <class Body>
void for_each_piece(const Int4Shape& shape, Body body) {
  for (int64_t group = 0, first = 0; first < shape.columns; ++group) {
    const int64_t group_end = first + shape.group;
    while (first < group_end) {
      const int64_t left = group_end - first;
      const int64_t length = left < Int4Shape::kPiece ? left : Int4Shape::kPiece;
      body(group, first, length);
      first += length;
    }
  }
}

struct PieceGrid {
  float scale;    // the size of one step; NaN if an activation is not finite
  float inverse;  // steps per unit; 0: every value is 0
};

// `largest`: the bits of the largest magnitude; they compare as integers, with NaN above all
// numbers.
[[maybe_unused]] static PieceGrid piece_grid(uint32_t largest) {
  constexpr float kSteps = 32500,
                  kSmallest = 1e-30f;  // below kSmallest, kSteps / magnitude overflows
  if (largest >= 0x7f800000) return {float_from_bits(0x7fc00000), 0};
  const float magnitude = float_from_bits(largest);
  if (magnitude < kSmallest) return {0, 0};
  return {magnitude / kSteps, kSteps / magnitude};
}

}  // namespace quern::kernels
