// The pictures of one sequence while it runs: patches until the tower has seen them, then features.
#pragma once

#include <string>
#include <vector>

#include "nn/media.h"
#include "nn/model.h"
#include "nn/pass.h"
#include "prompt/media.h"

namespace quern::runner {

class SequenceImages {
 public:
  // by_grid: soft tokens have positions by row and column.
  SequenceImages(std::vector<prompt::ImagePrompt::Image> images, bool by_grid);

  bool empty() const { return waiting_.empty() && placed_.empty(); }
  // Once, before the first pass; patches are dropped as soon as they are not needed.
  void encode(const nn::Vision& tower);
  // What tokens [first, first + count) of the sequence need beside their ids.
  void complete(nn::Pass& pass, int64_t first, int64_t count) const;

 private:
  std::vector<prompt::ImagePrompt::Image> waiting_;
  std::vector<nn::PlacedImage> placed_;
  bool by_grid_;
  int64_t shift_ = 0;  // of positions behind the last picture, against the number of the token
};

}  // namespace quern::runner
