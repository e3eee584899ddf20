// What blocks pass to later blocks of the same pass in addition to their output: named tensors with
// a row for each token. Empty, and free, for models whose blocks share nothing. Code that runs
// blocks one at a time keeps it from block to block without interpreting it.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace quern::nn {

class Shared {
 public:
  void set(const std::string& name, Tensor rows) { tensors_[name] = std::move(rows); }
  bool has(const std::string& name) const { return tensors_.contains(name); }
  // The tensor that the stem or an earlier block has set under this name.
  const Tensor& at(const std::string& name) const;

  // A range of tokens, as views.
  Shared narrow(int64_t first, int64_t tokens) const;
  // Concatenates the tokens; all parts hold the same names.
  static Shared cat(const std::vector<Shared>& parts);

  // A copy with its floating-point numbers in this dtype.
  Shared with_floats(DType dtype) const;

  // The tensors that `earlier` lacks, that is, those that a block has added.
  Shared beyond(const Shared& earlier) const;
  void add(const Shared& other);

 private:
  std::map<std::string, Tensor> tensors_;
};

}  // namespace quern::nn
