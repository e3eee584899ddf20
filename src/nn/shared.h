// What blocks pass to later blocks of the same pass in addition to their output: named tensors with
// a row for each token. It is empty, and costs nothing, for models whose blocks pass nothing on.
// Code that runs blocks one at a time keeps it from block to block and does not look inside.
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
  // Only of what the stem or an earlier block has set.
  const Tensor& at(const std::string& name) const;

  // Some tokens, as views.
  Shared narrow(int64_t first, int64_t tokens) const;
  // Tokens one after another; all parts hold the same names.
  static Shared cat(const std::vector<Shared>& parts);

  // The same with its floating-point numbers in this type.
  Shared with_floats(DType dtype) const;

  // What this has and `earlier` lacks: what a block has added.
  Shared beyond(const Shared& earlier) const;
  void add(const Shared& other);

 private:
  std::map<std::string, Tensor> tensors_;
};

}  // namespace quern::nn
