// Work on large activations in pieces that fit a core's cache, in parallel, differentiable by
// running a piece again. An ordinary chain of tensor functions is then one pass over memory instead
// of one for each function, keeps nothing but its inputs for the backward pass, and gives the same
// bits for every number of threads.
#pragma once

#include <functional>
#include <vector>

#include "tensor/tensor.h"

namespace quern::ops {

// One piece: the views of the inputs that it reads, and the view of the output that it fills. Views
// of different pieces of one tensor may not overlap.
struct Piece {
  std::function<Tensor(const Tensor& input, size_t which)> input;
  std::function<Tensor(const Tensor& output)> output;
};

using PieceFunction = std::function<Tensor(const std::vector<Tensor>& inputs)>;

// output[piece] = f(inputs[piece]) for all pieces; `output_shape` is fp32. Gradients flow to those
// inputs that want them.
Tensor by_pieces(const PieceFunction& f, std::vector<Tensor> inputs, at::IntArrayRef output_shape,
                 std::vector<Piece> pieces);

// The commonest case: every input and the output have one row for each token and f works on rows
// one by one. Without gradients the bits of a row do not depend on the number of rows.
Tensor by_rows(const PieceFunction& f, std::vector<Tensor> inputs,
               at::IntArrayRef output_row_shape);

}  // namespace quern::ops
