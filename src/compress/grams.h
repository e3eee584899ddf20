// Gram matrices of the inputs of linears: what GPTQ and SparseGPT know of the data. Weights that
// read one input share them.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "compress/method.h"
#include "ops/input_tap.h"
#include "ops/inverse_factor.h"

namespace quern::compress {

// Of one input; of experts, one for each.
class Grams : public ops::InputTap {
 public:
  Grams(int64_t matrices, int64_t columns);

  void see(int64_t matrix, const Tensor& x, const Tensor& factors) override;

  int64_t matrices() const { return std::ssize(sums_); }
  int64_t tokens(int64_t matrix) const { return tokens_[static_cast<size_t>(matrix)]; }
  // The sum of x x^T over all tokens: fp32 [columns, columns], of which the upper triangle counts.
  // Gives it away; undefined if no token was seen. Fails, naming the module, if an input was not
  // finite.
  Tensor take(int64_t matrix, const std::string& module);
  // 2 / windows times that, as llm-compressor scales it.
  Tensor take_scaled(int64_t matrix, int64_t windows, const std::string& module);

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

// How well a matrix could be solved.
enum class Solved { well, with_more_dampening, not_at_all, without_tokens };

// Collects the matrices of a block that were not solved well. Not thread-safe.
class SolvedMatrices {
 public:
  void add(const std::string& module, Solved solved);
  // One warning for each kind, with the first module and the number of the others. `fallback`: what
  // becomes of a matrix that was not solved, "rounded to nearest".
  std::vector<std::string> warnings(std::string_view fallback) const;

 private:
  std::map<Solved, std::vector<std::string>> modules_;
};

// Of the factor that ops::inverse_factor found.
Solved solved_by(const ops::InverseFactor& factor, double dampening);

}  // namespace quern::compress
