// Gram matrices of the inputs of linears: what GPTQ and SparseGPT know of the data. Weights that
// read one input share them.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "compress/method.h"
#include "ops/input_tap.h"

namespace quern::compress {

// Of one input; of experts, one for each.
class Grams : public ops::InputTap {
 public:
  Grams(int64_t matrices, int64_t columns);

  void see(int64_t matrix, const Tensor& x, const Tensor& factors) override;

  int64_t matrices() const { return std::ssize(sums_); }
  int64_t tokens(int64_t matrix) const { return tokens_[static_cast<size_t>(matrix)]; }
  // 2 / windows * sum of x x^T over all tokens, as llm-compressor scales it: fp32 [columns,
  // columns], of which the upper triangle counts. Gives it away; undefined if no token was seen.
  Tensor take(int64_t matrix, int64_t windows);

  // Bytes of one matrix.
  static int64_t bytes(int64_t columns) { return columns * columns * 4; }

 private:
  int64_t columns_;
  std::vector<Tensor> sums_;
  std::vector<int64_t> tokens_;
};

// The tasks that read one input.
struct SharedInput {
  std::vector<Task> tasks;
  std::unique_ptr<Grams> grams;
};

// Runs the block once over all samples. In the order of the tasks.
std::vector<SharedInput> gather_grams(const BlockWork& work);

}  // namespace quern::compress
