// Products with 4-bit weights: the layout of a weight that the kernels stream, and the form of the
// activations.
//
//   out[t, r] = sum over pieces p of scale[r, g] * x_scale[t, p]
//                   * sum over columns k of p of (code[r, k] - zero[r, g]) * x[t, k]
//   where g is the group of p
//
// A piece is a group, or 128 columns of a longer group. x[t, k] is the activation as a 16-bit
// integer on a grid for each token and piece, so the inner sum is exact in 32 bits; the outer sum
// is a chain of fused multiply-adds in the order of p. The result for a row and a token therefore
// depends only on them, not on the instruction set, the split of the rows, or the number of tokens.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "kernels/floats.h"

namespace quern::kernels {

struct Int4Shape {
  int64_t rows = 0, columns = 0;
  int64_t group = 0;  // columns that share a scale; `columns` for one scale per row
  FloatType scale_type = FloatType::bf16;
  bool symmetric = true;  // every zero is 8

  int64_t groups() const { return columns / group; }
  int64_t pieces_per_group() const { return (group + kPiece - 1) / kPiece; }
  int64_t pieces() const { return groups() * pieces_per_group(); }

  static constexpr int64_t kPiece = 128;
};

// The kernels multiply groups of a multiple of 32 columns, and 32 rows of a weight at a time.
constexpr int64_t kInt4GroupMultiple = 32;
constexpr int64_t kInt4RowBlock = 32;

// Empty, or why the kernels cannot multiply a weight of this shape, as a clause for a message.
std::string int4_refusal(const Int4Shape& shape);

// A weight as stored (quant/scheme.h).
struct Int4Source {
  const uint8_t* codes;  // [rows, columns / 2], column 2j in the low nibble of byte j
  const void* scales;    // shape.scale_type [rows, groups]; may be negative
  const uint8_t* zeros;  // [rows, groups]; null if symmetric
};

// The arrangement: blocks of 32 rows, the last block padded with zero scales; each block has
//   scales [groups, 32], zeros [groups, 32] unless symmetric, each padded to 64 bytes,
//   codes [columns / 8, 32] words of 32 bits: 8 columns of one row, the first in the low nibble.
// The block is read front to back, one 64-byte line at a time, and must start at a line: memory
// delivers one stream fastest, and 32 rows share each load of the activations.
size_t int4_block_bytes(const Int4Shape& shape);
size_t int4_bytes(const Int4Shape& shape);
void arrange_int4(const Int4Shape& shape, const Int4Source& source, uint8_t* arranged);

// Activations, made by CpuKernels::quantize_activations. The layout of `values` is private to the
// kernels of one instruction set.
struct Int4Activations {
  int64_t tokens;
  int16_t* values;  // [tokens, columns] numbers
  float* scales;    // [tokens, pieces]; NaN where an activation was not finite
  int32_t* sums;    // [tokens, pieces], of the values
};

// The memory for the activations of `tokens` tokens, and a view of such memory, which starts at a
// 64-byte line.
size_t int4_activation_bytes(const Int4Shape& shape, int64_t tokens);
Int4Activations int4_activations(const Int4Shape& shape, int64_t tokens, void* memory);

}  // namespace quern::kernels
