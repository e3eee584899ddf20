// Products of activations with weights. Callers cannot tell which form a weight has.
#pragma once

#include <array>
#include <vector>

#include "nn/weight.h"

namespace quern::nn {

// y = x W^T (+ bias): x fp32 [tokens, columns] -> [tokens, rows]. Cheap to copy, because it owns
// nothing.
class Linear {
 public:
  Linear() = default;
  explicit Linear(Weight weight, Tensor bias = {})
      : weight_(std::move(weight)), bias_(std::move(bias)) {}

  Tensor operator()(const Tensor& x) const;
  const Weight& weight() const { return weight_; }

 private:
  Weight weight_;
  Tensor bias_;  // fp32 [rows], or undefined
};

// Linears that read one input; vLLM fuses them, so they share a scheme.
template <size_t N>
class Merged {
 public:
  Merged() = default;
  explicit Merged(std::array<Linear, N> parts) : parts_(std::move(parts)) {}

  std::array<Tensor, N> operator()(const Tensor& x) const {
    std::array<Tensor, N> out;
    for (size_t i = 0; i < N; ++i) out[i] = parts_[i](x);
    return out;
  }
  const Linear& part(size_t i) const { return parts_[i]; }

 private:
  std::array<Linear, N> parts_;
};

// Embedding rows as fp32: tokens int64 [n] -> [n, width].
class Embedding {
 public:
  explicit Embedding(Tensor table) : table_(std::move(table)) {}
  Tensor operator()(const Tensor& tokens) const {
    return table_.index_select(0, tokens).to(at::kFloat);
  }
  // The same table with some of its columns.
  Embedding columns(int64_t first, int64_t count) const {
    return Embedding(table_.narrow(1, first, count));
  }

 private:
  Tensor table_;
};

// Root mean square norm; the weight in fp32, already 1 + w where the model stores it so.
class Norm {
 public:
  Norm() = default;
  Norm(Tensor weight, double eps) : weight_(std::move(weight)), eps_(eps) {}
  Tensor operator()(const Tensor& x) const;
  // norm(x) * silu(gate)
  Tensor gated(const Tensor& x, const Tensor& gate) const;

 private:
  Tensor weight_;
  double eps_ = 0;
};

// down(silu(gate x) * up x)
class Mlp {
 public:
  Mlp() = default;
  Mlp(Merged<2> gate_up, Linear down) : gate_up_(std::move(gate_up)), down_proj_(std::move(down)) {}
  Tensor operator()(const Tensor& x) const;

 private:
  Merged<2> gate_up_;
  Linear down_proj_;
};

}  // namespace quern::nn
