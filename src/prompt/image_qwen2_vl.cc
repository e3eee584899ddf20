// The image processor of the Qwen-VL family: pictures keep their size if it is between two limits.
// After transformers' image_processing_qwen2_vl.py.

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "prompt/image_processor.h"
#include "prompt/image_scaling.h"

namespace quern::prompt {
namespace {

// The smallest or largest number of pixels. The released files name these areas edges; older files
// have them at the top level.
int64_t pixels(const Json& c, const char* edge, const char* older, int64_t otherwise) {
  if (c.has(older)) return positive(c, older, otherwise, kMostResizedPixels);
  if (!c.has("size")) return otherwise;
  return positive(c.at("size"), edge, otherwise, kMostResizedPixels);
}

class Qwen2VlImageProcessor : public ImageProcessor {
 public:
  explicit Qwen2VlImageProcessor(const Json& c)
      : scaling_(c, {.normalize = true,
                     .mean = {0.48145466, 0.4578275, 0.40821073},
                     .deviation = {0.26862954, 0.26130258, 0.27577711}}),
        patch_(positive(c, "patch_size", 14, 64)),
        merge_(positive(c, "merge_size", 2, 16)),
        frames_(positive(c, "temporal_patch_size", 2, 16)),
        fewest_(pixels(c, "shortest_edge", "min_pixels", 56 * 56)),
        most_(pixels(c, "longest_edge", "max_pixels", 28 * 28 * 1280)) {}

  Patches operator()(const Tensor& rgb, const std::string& origin) const override {
    const auto [height, width] = size_for(rgb.size(1), rgb.size(2), origin);
    const int64_t rows = height / patch_, columns = width / patch_;
    // Patches in squares of merge x merge; values of a patch: (channel, frame, row, column). All
    // frames of a still picture are equal.
    Tensor values =
        scaling_(resized(rgb, height, width))
            .reshape({3, rows / merge_, merge_, patch_, columns / merge_, merge_, patch_})
            .permute({1, 4, 2, 5, 0, 3, 6})
            .unsqueeze(5)
            .expand({-1, -1, -1, -1, -1, frames_, -1, -1})
            .reshape({rows * columns, 3 * frames_ * patch_ * patch_});
    return {std::move(values), rows, columns, merge_};
  }

 private:
  // Computed in doubles and in the order of the reference.
  std::pair<int64_t, int64_t> size_for(int64_t height, int64_t width,
                                       const std::string& origin) const {
    const auto h = static_cast<double>(height), w = static_cast<double>(width);
    if (std::max(h, w) / std::min(h, w) > 200)
      fail("{}: a picture of {} x {} pixels is more than 200 times as long as wide; crop it",
           origin, width, height);
    const int64_t side = patch_ * merge_;
    const auto s = static_cast<double>(side);
    // nearbyint rounds half to even, like Python.
    auto sides = [&](double rows, double columns) {
      return std::pair{static_cast<int64_t>(rows) * side, static_cast<int64_t>(columns) * side};
    };
    auto [near_h, near_w] = sides(std::nearbyint(h / s), std::nearbyint(w / s));
    if (near_h * near_w > most_) {
      const double shrink = std::sqrt(h * w / static_cast<double>(most_));
      return sides(std::max(1.0, std::floor(h / shrink / s)),
                   std::max(1.0, std::floor(w / shrink / s)));
    }
    if (near_h * near_w < fewest_) {
      const double grow = std::sqrt(static_cast<double>(fewest_) / (h * w));
      return sides(std::ceil(h * grow / s), std::ceil(w * grow / s));
    }
    return {near_h, near_w};
  }

  ValueScaling scaling_;
  int64_t patch_, merge_, frames_, fewest_, most_;
};

}  // namespace

std::unique_ptr<ImageProcessor> qwen2_vl_image_processor(const Json& config) {
  return std::make_unique<Qwen2VlImageProcessor>(config);
}

}  // namespace quern::prompt
