// Products of activations with weights. Callers cannot tell which form a weight has.
#pragma once

#include <array>
#include <vector>

#include "nn/activation.h"
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

// Linears that read one input: several matrices, which vLLM fuses, so they share a scheme; or one
// that holds the rows of all, part after part.
template <size_t N>
class Merged {
 public:
  Merged() = default;
  explicit Merged(std::array<Linear, N> parts) : parts_(std::move(parts)) {}
  Merged(Linear whole, const std::array<int64_t, N>& rows) : rows_(rows) {
    parts_[0] = std::move(whole);
  }

  std::array<Tensor, N> operator()(const Tensor& x) const {
    std::array<Tensor, N> out;
    if (rows_[0] == 0) {
      for (size_t i = 0; i < N; ++i) out[i] = parts_[i](x);
      return out;
    }
    // Copied apart: attention takes keys and values of one stride.
    const auto pieces = parts_[0](x).split_with_sizes(rows_, -1);
    for (size_t i = 0; i < N; ++i) out[i] = pieces[i].contiguous();
    return out;
  }

 private:
  std::array<Linear, N> parts_;       // only the first one if it holds all rows
  std::array<int64_t, N> rows_ = {};  // of each part in the one matrix, or zeros
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

// down(act(gate x) * up x)
class Mlp {
 public:
  Mlp() = default;
  Mlp(Merged<2> gate_up, Linear down, Activation activation)
      : gate_up_(std::move(gate_up)), down_proj_(std::move(down)), activation_(activation) {}
  Tensor operator()(const Tensor& x) const;

 private:
  Merged<2> gate_up_;
  Linear down_proj_;
  Activation activation_ = Activation::silu;
};

}  // namespace quern::nn
