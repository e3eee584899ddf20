// Runs functions of large activations in pieces that fit a core's cache, in parallel; the backward
// pass runs each piece again. A chain of tensor functions is then one pass over memory instead of
// one per function, keeps only its inputs for the backward pass, and gives equal bits for every
// number of threads.
#pragma once

#include <functional>
#include <vector>

#include "tensor/tensor.h"

namespace quern::ops {

// One piece: views of its inputs, and the view of the output that it fills. The views of one tensor
// in different pieces must not overlap.
struct Piece {
  std::function<Tensor(const Tensor& input, size_t which)> input;
  std::function<Tensor(const Tensor& output)> output;
};

using PieceFunction = std::function<Tensor(const std::vector<Tensor>& inputs)>;

// output[piece] = f(inputs[piece]) for all pieces; `output_shape` is fp32. Gradients flow to the
// inputs that require them.
Tensor by_pieces(const PieceFunction& f, std::vector<Tensor> inputs, at::IntArrayRef output_shape,
                 std::vector<Piece> pieces);

// The most common case: every input and the output have one row per token, and f treats each row
// separately. Without gradients the bits of a row do not depend on the number of rows.
Tensor by_rows(const PieceFunction& f, std::vector<Tensor> inputs,
               at::IntArrayRef output_row_shape);

}  // namespace quern::ops
