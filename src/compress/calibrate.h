// Runs calibration windows through the stem and the blocks of a model.
#pragma once

#include <functional>
#include <vector>

#include "compress/samples.h"
#include "nn/model.h"

namespace quern::compress {

// The stem's output for all windows of token ids. images: those of each window, or empty. by_grid:
// image tokens have positions by row and column.
Samples embed(const nn::Stem& stem, const std::vector<std::vector<int32_t>>& windows,
              const std::vector<std::vector<nn::PlacedImage>>& images = {}, bool by_grid = false);

// Runs every sample through the block, a few at a time; the output replaces the input. Counts
// tokens per expert on request.
void run_block(const nn::Block& block, Samples& samples,
               std::vector<int64_t>* pairs_per_expert = nullptr);

// Runs every sample through the block, a few at a time; taps see the inputs, and `look` the output
// of these samples, fp32 [tokens, width].
using Look = std::function<void(const std::vector<int64_t>& which, const Tensor& output)>;
void look_at_block(const nn::Block& block, const Samples& samples, const Look& look = {});

// One half of a block as a block, without the other half.
class FirstHalf : public nn::Block {
 public:
  explicit FirstHalf(const nn::Block& block) : block_(block) {}
  Tensor mixed(const Tensor& x, nn::Pass& pass) const override { return block_.mixed(x, pass); }
  Tensor fed_forward(const Tensor& x, nn::Pass&) const override { return x; }

 private:
  const nn::Block& block_;
};
class SecondHalf : public nn::Block {
 public:
  explicit SecondHalf(const nn::Block& block) : block_(block) {}
  Tensor mixed(const Tensor& x, nn::Pass&) const override { return x; }
  Tensor fed_forward(const Tensor& x, nn::Pass& pass) const override {
    return block_.fed_forward(x, pass);
  }

 private:
  const nn::Block& block_;
};

// Whether the first half of the block multiplies by one of these weights, found by running it on a
// sample. If not, its output does not change while the weights are tuned.
bool first_half_reads(const nn::Block& block, const std::vector<nn::Weight>& weights,
                      const Samples& samples);

}  // namespace quern::compress
