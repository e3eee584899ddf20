// How the numbers of one weight are stored, and a weight in this form. Every on-disk format is a
// reversible function of a QuantWeight (quant/format.h); the layout of a kernel is made from it too
// (ops/).
#pragma once

#include <cstdint>
#include <string>

#include "quant/element.h"
#include "tensor/tensor.h"

namespace quern::quant {

// Numbers in groups along the input dimension, with one scale (and zero point) for each group.
struct Scheme {
  const Element* element = &kInt4;
  int64_t group_size = 128;  // input columns that share a scale; -1: the whole row
  bool symmetric = true;
  DType scale_dtype = at::kBFloat16;  // scales are rounded to it before any division by them

  // Groups in a row of `columns` weights; fails when the group size does not divide the columns.
  int64_t groups(int64_t columns) const;
  std::string text() const;  // "int4 symmetric, groups of 128"
  bool operator==(const Scheme&) const = default;
};

// One matrix [out, in], or a stack of equal-shaped ones [experts, out, in]:
//   weight[o, i] = scale[o, i / group] * (code[o, i] - zero[o, i / group])
// with codes and zeros of the element; zero is the element's middle if symmetric.
struct QuantWeight {
  Scheme scheme;
  int64_t columns = 0;  // in
  // uint8 [.., out, element.bytes(in)]: packed by the element, each row separately.
  Tensor codes;
  Tensor scales;  // scheme.scale_dtype [.., out, groups]; may be negative
  Tensor zeros;   // uint8 [.., out, groups], not packed; undefined if symmetric

  int64_t rows() const { return codes.size(-2); }
  bool stacked() const { return codes.dim() == 3; }
  // A view of one matrix of a stack.
  QuantWeight expert(int64_t index) const;
};

}  // namespace quern::quant
