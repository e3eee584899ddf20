// A draft layer as one more block, tuned like any other: its input is the states that it will see,
// its target the states that the original draft layer gave.
#pragma once

#include <vector>

#include "compress/samples.h"
#include "nn/model.h"

namespace quern::compress {

// fp32 [tokens, 2 hidden], the embedding of the next token and the state of a position in each row
// -> [tokens, hidden], the draft's states. The first half is empty, because the layer changes the
// width.
class DraftBlock : public nn::Block {
 public:
  explicit DraftBlock(const nn::Draft& draft) : draft_(draft) {}

  Tensor mixed(const Tensor& x, nn::Pass&) const override { return x; }
  Tensor fed_forward(const Tensor& x, nn::Pass& pass) const override {
    const auto halves = x.chunk(2, -1);
    return draft_(halves[0], halves[1], pass);
  }

 private:
  const nn::Draft& draft_;
};

// The input of the draft block. `last` is the last block's output for `windows` with these pictures
// (of each window, or empty). The last position of each window is omitted, because no token follows
// it.
Samples draft_input(const nn::Draft& draft, const nn::Stem& stem, const nn::Head& head,
                    const std::vector<std::vector<int32_t>>& windows,
                    const std::vector<std::vector<nn::PlacedImage>>& images, const Samples& last);

}  // namespace quern::compress
