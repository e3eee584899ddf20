// Pictures among tokens: soft tokens whose embeddings are a vision tower's features.
#pragma once

#include <vector>

#include "tensor/tensor.h"

namespace quern::nn {

// One picture of a sequence.
struct PlacedImage {
  int64_t first = 0;              // its first soft token
  int64_t rows = 0, columns = 0;  // the grid of its soft tokens, which come row by row
  Tensor features;                // fp32 [rows * columns, hidden]

  int64_t end() const { return first + rows * columns; }
};

// The soft tokens of a pass.
struct Media {
  Tensor tokens;    // int64 [soft tokens]: where they stand in the pass; undefined: there are none
  Tensor features;  // fp32 [soft tokens, hidden]

  // The features in their places, `embedded` [tokens, hidden] elsewhere.
  Tensor in_place_of(const Tensor& embedded) const;
  // Ids [tokens] with this one at all soft tokens.
  Tensor masked(const Tensor& ids, int64_t id) const;
};

// The soft tokens among tokens [first, first + count) of a sequence with these pictures. The range
// may cut a picture.
Media media_of(const std::vector<PlacedImage>& images, int64_t first, int64_t count);

// Positions in time, height and width, int64 [3, tokens], of a sequence whose pictures are placed
// by row and column (M-RoPE: transformers' modeling_qwen3_5_moe.py, get_rope_index). A picture
// takes as many positions as its longer side, so that later tokens may stand at positions below
// their number. The last tokens may cut a picture.
Tensor grid_positions(const std::vector<PlacedImage>& images, int64_t tokens);

}  // namespace quern::nn
