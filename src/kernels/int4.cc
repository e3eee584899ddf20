// The arrangement of 4-bit weights, and the limits of the kernels.
#include "kernels/int4.h"

#include <fmt/format.h>

#include <cstring>

#include "kernels/cpu/int4_layout.h"

namespace quern::kernels {
namespace {

int64_t blocks(const Int4Shape& shape) { return (shape.rows + kInt4RowBlock - 1) / kInt4RowBlock; }

void arrange_row(const Int4Shape& shape, const Int4Layout& layout, const Int4Source& source,
                 int64_t row, uint8_t* block) {
  const int64_t lane = row % kInt4RowBlock, groups = shape.groups();
  const int64_t width = float_bytes(shape.scale_type);
  const auto* scales = static_cast<const uint8_t*>(source.scales) + row * groups * width;
  uint8_t* zeros = block + layout.scale_bytes;
  for (int64_t g = 0; g < groups; ++g) {
    std::memcpy(block + (g * kInt4RowBlock + lane) * width, scales + g * width, width);
    if (!shape.symmetric) zeros[g * kInt4RowBlock + lane] = source.zeros[row * groups + g];
  }
  uint8_t* words = zeros + layout.zero_bytes;
  const uint8_t* codes = source.codes + row * shape.columns / 2;
  for (int64_t k8 = 0; k8 < shape.columns / 8; ++k8)
    std::memcpy(words + (k8 * kInt4RowBlock + lane) * 4, codes + k8 * 4, 4);
}

}  // namespace

std::string int4_refusal(const Int4Shape& shape) {
  if (shape.rows < 1 || shape.columns < 1) return "the matrix is empty";
  if (shape.group < 1 || shape.group % kInt4GroupMultiple != 0)
    return fmt::format("groups of {} columns are not a multiple of {}", shape.group,
                       kInt4GroupMultiple);
  if (shape.columns % shape.group != 0)
    return fmt::format("{} columns do not divide into groups of {}", shape.columns, shape.group);
  return {};
}

size_t int4_block_bytes(const Int4Shape& shape) { return int4_layout(shape).block_bytes; }

size_t int4_bytes(const Int4Shape& shape) { return blocks(shape) * int4_block_bytes(shape); }

void arrange_int4(const Int4Shape& shape, const Int4Source& source, uint8_t* arranged) {
  const Int4Layout layout = int4_layout(shape);
  if (shape.rows % kInt4RowBlock != 0)
    std::memset(arranged + (blocks(shape) - 1) * layout.block_bytes, 0, layout.block_bytes);
  for (int64_t row = 0; row < shape.rows; ++row)
    arrange_row(shape, layout, source, row, arranged + row / kInt4RowBlock * layout.block_bytes);
}

size_t int4_activation_bytes(const Int4Shape& shape, int64_t tokens) {
  return whole_lines(tokens * shape.columns * sizeof(int16_t)) +
         2 * whole_lines(tokens * shape.pieces() * sizeof(float));
}

Int4Activations int4_activations(const Int4Shape& shape, int64_t tokens, void* memory) {
  auto* values = static_cast<uint8_t*>(memory);
  uint8_t* scales = values + whole_lines(tokens * shape.columns * sizeof(int16_t));
  uint8_t* sums = scales + whole_lines(tokens * shape.pieces() * sizeof(float));
  return {tokens, reinterpret_cast<int16_t*>(values), reinterpret_cast<float*>(scales),
          reinterpret_cast<int32_t*>(sums)};
}

}  // namespace quern::kernels
