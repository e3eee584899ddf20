// How ranks divide matrices (tensor parallelism). A model file states where a matrix may be cut; a
// rank loads its share, and the model sees local sizes only.
#pragma once

#include <initializer_list>
#include <vector>

#include "quant/scheme.h"
#include "tensor/tensor.h"

namespace quern::nn {

// rows: a share of the outputs. columns: a share of the inputs; the products of all ranks must be
// added. none: every rank has the whole matrix.
enum class Split { none, rows, columns };

struct Rank {
  int64_t index = 0, count = 1;
};

// `count` equal pieces that may not be cut.
struct Heads {
  int64_t count, width = 1;

  int64_t size() const { return count * width; }
};

struct Range {
  int64_t begin, size;
};

// The rows or the columns of a matrix: one or several consecutive lists of heads, each divided
// among the ranks. If there are fewer heads than ranks, some ranks share a head.
class Axis {
 public:
  Axis(int64_t size) : lists_{{size}} {}  // NOLINT: an axis that may be cut anywhere
  Axis(std::initializer_list<Heads> lists) : lists_(lists) {}
  static Axis heads(int64_t count, int64_t width) { return {{count, width}}; }

  int64_t size() const;
  void append(const Axis& more);
  // The ranges of a rank, in order. Fails, naming `name`, when heads and ranks do not divide.
  std::vector<Range> share(const Rank& rank, const std::string& name) const;

 private:
  std::vector<Heads> lists_;
};

// These pieces of a dimension, concatenated; a view if there is only one.
Tensor pick(const Tensor& x, int64_t dim, const std::vector<Range>& pieces);
// These pieces of the rows (dim 0) or columns (dim 1) of a matrix, contiguous. Fails, naming
// `name`, when pieces of columns cut a group.
inline Tensor pick(const Tensor& matrix, int64_t dim, const std::vector<Range>& pieces,
                   const std::string& /*name*/) {
  return pick(matrix, dim, pieces).contiguous();
}
quant::QuantWeight pick(const quant::QuantWeight& weight, int64_t dim,
                        const std::vector<Range>& pieces, const std::string& name);

}  // namespace quern::nn
