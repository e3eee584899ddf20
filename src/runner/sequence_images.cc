#include "runner/sequence_images.h"

namespace quern::runner {

SequenceImages::SequenceImages(std::vector<prompt::ImagePrompt::Image> images, bool by_grid)
    : waiting_(std::move(images)), by_grid_(by_grid) {}

void SequenceImages::encode(const nn::Vision& tower) {
  for (auto& [first, patches] : waiting_) {
    placed_.push_back({first, patches.soft_rows(), patches.soft_columns(), tower(patches)});
    patches.values.reset();
  }
  waiting_.clear();
  if (placed_.empty() || !by_grid_) return;
  const int64_t end = placed_.back().end();
  shift_ = nn::grid_positions(placed_, end + 1)[0][end].item<int64_t>() - end;
}

void SequenceImages::complete(nn::Pass& pass, int64_t first, int64_t count) const {
  QUERN_CHECK(waiting_.empty());
  if (placed_.empty()) return;
  pass.media = nn::media_of(placed_, first, count);
  if (!by_grid_) return;
  if (first >= placed_.back().end()) {
    pass.positions = pass.positions + shift_;
  } else {
    pass.positions = nn::grid_positions(placed_, first + count).narrow(1, first, count);
  }
}

}  // namespace quern::runner
