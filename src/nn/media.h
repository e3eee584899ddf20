// Pictures among tokens. The embeddings of soft tokens are features of a vision tower.
#pragma once

#include <vector>

#include "tensor/tensor.h"

namespace quern::nn {

// One picture of a sequence.
struct PlacedImage {
  int64_t first = 0;              // its first soft token
  int64_t rows = 0, columns = 0;  // the grid of its soft tokens, row by row
  Tensor features;                // fp32 [rows * columns, hidden]

  int64_t end() const { return first + rows * columns; }
};

// The soft tokens of a pass.
struct Media {
  Tensor tokens;    // int64 [soft tokens]: their rows in the pass; undefined: none
  Tensor features;  // fp32 [soft tokens, hidden]

  // `embedded` [tokens, hidden] with the features in place of the soft tokens' embeddings.
  Tensor in_place_of(const Tensor& embedded) const;
  // `ids` [tokens] with `id` at all soft tokens.
  Tensor masked(const Tensor& ids, int64_t id) const;
};

// The soft tokens among tokens [first, first + count) of a sequence with these pictures. The range
// may cut a picture.
Media media_of(const std::vector<PlacedImage>& images, int64_t first, int64_t count);

// Positions in time, height and width, int64 [3, tokens], of a sequence whose pictures are placed
// by row and column (M-RoPE: transformers' modeling_qwen3_5_moe.py, get_rope_index). A picture
// takes as many positions as its longer side, so the position of a later token may be less than its
// index. The end of the sequence may cut a picture.
Tensor grid_positions(const std::vector<PlacedImage>& images, int64_t tokens);

}  // namespace quern::nn
