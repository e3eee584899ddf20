// The activations of the calibration where two blocks meet: read in fp32, kept in bf16 as the peers
// keep theirs. A block's output takes the place of its input.
#pragma once

#include <cstdint>
#include <vector>

#include "nn/pass.h"

namespace quern::compress {

class Samples {
 public:
  Samples() = default;
  // lengths: tokens of each sample. There are no activations yet.
  explicit Samples(std::vector<int64_t> lengths);

  int64_t count() const { return std::ssize(lengths_); }
  int64_t tokens(int64_t sample) const { return lengths_[sample]; }

  // Of some samples, one after another in this order: fp32 [their tokens, width].
  Tensor read(const std::vector<int64_t>& which) const;
  // A pass over them, with what earlier blocks have told of their tokens.
  nn::Pass pass(const std::vector<int64_t>& which) const;

  // rows: [their tokens, any width]. Different samples may be written at the same time.
  void write(const std::vector<int64_t>& which, const Tensor& rows);
  // What a block tells of their tokens, beside what earlier ones told.
  void tell(const std::vector<int64_t>& which, const nn::Shared& shared);

  // Bytes of `tokens` rows.
  static int64_t bytes(int64_t tokens, int64_t width);

 private:
  std::vector<int64_t> lengths_;
  std::vector<Tensor> rows_;        // of each sample, bf16 [tokens, width]
  std::vector<nn::Shared> shared_;  // the same; floating-point numbers in bf16
};

}  // namespace quern::compress
