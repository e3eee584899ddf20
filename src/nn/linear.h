// Products of activations with weights. Callers do not depend on the form of a weight.
#pragma once

#include <array>
#include <vector>

#include "base/error.h"
#include "nn/weight.h"
#include "ops/activation.h"

namespace quern::nn {

using ops::Activation;

// y = x W^T (+ bias): x fp32 [tokens, columns] -> [tokens, rows]. W may consist of several parts,
// stacked by rows, that read one input: separate weights, or one matrix, as in the checkpoint.
// Cheap to copy: it holds only handles.
class Linear {
 public:
  Linear() = default;
  explicit Linear(Weight weight, Tensor bias = {});
  // rows: the rows of each part, in order; their sum is the number of rows of all weights. bias
  // fp32 [all rows].
  Linear(std::vector<Weight> weights, std::vector<int64_t> rows, Tensor bias);

  // One linear with the parts of both: two linears that read one input become one product.
  static Linear joined(const Linear& first, const Linear& second);

  // All parts, [tokens, all rows].
  Tensor operator()(const Tensor& x) const;
  // The output of each part, as views of one tensor.
  std::vector<Tensor> parts(const Tensor& x) const;
  template <size_t N>
  std::array<Tensor, N> parts(const Tensor& x) const {
    std::vector<Tensor> all = parts(x);
    QUERN_CHECK(all.size() == N);
    std::array<Tensor, N> some;
    std::move(all.begin(), all.end(), some.begin());
    return some;
  }

  const std::vector<Weight>& weights() const { return weights_; }

 private:
  std::vector<Weight> weights_;
  std::vector<int64_t> rows_;
  Tensor bias_;  // or undefined
};

// Embedding rows as fp32: tokens int64 [n] -> [n, width].
class Embedding {
 public:
  explicit Embedding(Tensor table) : table_(std::move(table)) {}
  Tensor operator()(const Tensor& tokens) const {
    return table_.index_select(0, tokens).to(at::kFloat);
  }
  // A view of the table with a range of its columns.
  Embedding columns(int64_t first, int64_t count) const {
    return Embedding(table_.narrow(1, first, count));
  }

 private:
  Tensor table_;
};

// down(act(gate x) * up x)
class Mlp {
 public:
  Mlp() = default;
  // gate_up has two parts.
  Mlp(Linear gate_up, Linear down, Activation activation)
      : gate_up_(std::move(gate_up)), down_proj_(std::move(down)), activation_(activation) {}
  Tensor operator()(const Tensor& x) const;

 private:
  Linear gate_up_, down_proj_;
  Activation activation_ = Activation::silu;
};

}  // namespace quern::nn
