// The calibration activations between two blocks, stored in bf16 as the peers do and read in fp32.
// A block's output replaces its input.
#pragma once

#include <cstdint>
#include <vector>

#include "nn/pass.h"

namespace quern::compress {

class Samples {
 public:
  Samples() = default;
  // lengths: tokens of each sample. The activations are empty at first.
  explicit Samples(std::vector<int64_t> lengths);

  int64_t count() const { return std::ssize(lengths_); }
  int64_t tokens(int64_t sample) const { return lengths_[sample]; }

  // The activations of these samples, concatenated in this order: fp32 [tokens, width].
  Tensor read(const std::vector<int64_t>& which) const;
  // A pass over these samples, with the shared tensors that earlier blocks left for their tokens.
  nn::Pass pass(const std::vector<int64_t>& which) const;

  // rows: [tokens of these samples, any width]. Threads may write different samples at the same
  // time.
  void write(const std::vector<int64_t>& which, const Tensor& rows);
  // Adds the tensors that a block shares about these samples' tokens.
  void tell(const std::vector<int64_t>& which, const nn::Shared& shared);

  // Bytes of `tokens` rows of this width.
  static int64_t bytes(int64_t tokens, int64_t width);

 private:
  std::vector<int64_t> lengths_;
  std::vector<Tensor> rows_;        // one for each sample, bf16 [tokens, width]
  std::vector<nn::Shared> shared_;  // one for each sample; floating-point numbers in bf16
};

}  // namespace quern::compress
