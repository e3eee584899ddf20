// The size of each channel of an input, and its Gram matrix: what AWQ knows of the data.
#pragma once

#include <memory>
#include <vector>

#include "compress/grams.h"

namespace quern::compress {

// Of one input; of experts, one for each.
class ChannelSums : public ops::InputTap {
 public:
  // with_gram: also sums up x x^T.
  ChannelSums(int64_t matrices, int64_t columns, bool with_gram);

  void see(int64_t matrix, const Tensor& x, const Tensor& factors) override;

  int64_t tokens(int64_t matrix) const { return tokens_[static_cast<size_t>(matrix)]; }
  // The mean of |x| of each column over the tokens of one matrix, or over all (each token counts
  // once for each of its experts); empty if no token was seen. Fails, naming the module, if an
  // input was not finite.
  std::vector<double> mean(int64_t matrix, const std::string& module) const;
  std::vector<double> mean_of_all(const std::string& module) const;
  // Null without Gram matrices.
  Grams* grams() { return grams_.get(); }

 private:
  int64_t columns_;
  std::vector<std::vector<double>> sums_;
  std::vector<int64_t> tokens_;
  std::unique_ptr<Grams> grams_;
};

}  // namespace quern::compress
