// Calibration windows through the stem and the blocks of a model.
#pragma once

#include <vector>

#include "compress/samples.h"
#include "nn/model.h"

namespace quern::compress {

// The stem's output for all windows of token ids. images: of each window, or empty; by_grid: their
// soft tokens have positions by row and column.
Samples embed(const nn::Stem& stem, const std::vector<std::vector<int32_t>>& windows,
              const std::vector<std::vector<nn::PlacedImage>>& images = {}, bool by_grid = false);

// Every sample through the block, a few at a time: the output takes the place of the input. Counts
// tokens per expert if asked to.
void run_block(const nn::Block& block, Samples& samples,
               std::vector<int64_t>* pairs_per_expert = nullptr);

}  // namespace quern::compress
