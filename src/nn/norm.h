// Root mean square norms behind handles: a method may change the factor of a norm, and all readers
// of the norm see the change.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace quern::nn {

class Norm {
 public:
  Norm() = default;
  // factor fp32 [width], or undefined for 1.
  Norm(Tensor factor, double eps);

  // Over the last dimension.
  Tensor operator()(const Tensor& x) const;
  // norm(x) * silu(gate)
  Tensor gated(const Tensor& x, const Tensor& gate) const;

  const Tensor& factor() const { return stored_->factor; }
  void become(Tensor factor) const;
  // Whether both are handles of the same norm.
  bool is(const Norm& other) const { return stored_ == other.stored_; }

 private:
  struct Stored {
    Tensor factor;
    double eps;
  };
  std::shared_ptr<Stored> stored_;
};

// A norm under its checkpoint name, for methods that move scale between norms and linears.
struct NormSite {
  std::string tensor;  // the tensor of the weight, "model.layers.0.input_layernorm.weight"
  Norm norm;
  bool plus_one;  // the tensor holds the factor minus 1
  DType dtype;    // of the tensor
  // The inputs (LinearSite::input) that consist of this norm's output only. Empty if the output
  // also goes elsewhere, because its scale then cannot be moved into linears.
  std::vector<std::string> readers;

  // The factor as stored in the tensor, fp32.
  Tensor stored() const { return plus_one ? norm.factor() - 1.0 : norm.factor(); }
};

}  // namespace quern::nn
