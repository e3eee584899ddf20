// Gemma 4's image processor: every picture is scaled up or down to about the same number of
// patches. After transformers' image_processing_gemma4.py.

#include <algorithm>
#include <array>
#include <cmath>

#include "base/error.h"
#include "prompt/image_processor.h"
#include "prompt/image_scaling.h"

namespace quern::prompt {
namespace {

constexpr std::array<int64_t, 5> kSoftTokens = {70, 140, 280, 560, 1120};

class Gemma4ImageProcessor : public ImageProcessor {
 public:
  explicit Gemma4ImageProcessor(const Json& c)
      : scaling_(c, {.normalize = false, .mean = {0, 0, 0}, .deviation = {1, 1, 1}}),
        patch_(positive(c, "patch_size", 16, 64)),
        pooling_(positive(c, "pooling_kernel_size", 3, 16)),
        soft_tokens_(c.get<int64_t>("max_soft_tokens", 280)) {
    if (std::find(kSoftTokens.begin(), kSoftTokens.end(), soft_tokens_) == kSoftTokens.end())
      fail("{}: max_soft_tokens is {}, but must be one of {}", c.path(), soft_tokens_,
           fmt::join(kSoftTokens, ", "));
    if (most_pixels() > kMostResizedPixels)
      fail(
          "{}: max_soft_tokens, pooling_kernel_size and patch_size make pictures of {} pixels; the "
          "limit is {}",
          c.path(), most_pixels(), kMostResizedPixels);
  }

  Patches operator()(const Tensor& rgb, const std::string& origin) const override {
    const auto [height, width] = size_for(rgb.size(1), rgb.size(2), origin);
    const int64_t rows = height / patch_, columns = width / patch_;
    // Values of a patch: (row, column, channel), channel fastest.
    Tensor values = scaling_(resized(rgb, height, width))
                        .reshape({3, rows, patch_, columns, patch_})
                        .permute({1, 3, 2, 4, 0})
                        .reshape({rows * columns, patch_ * patch_ * 3});
    return {std::move(values), rows, columns, pooling_};
  }

 private:
  int64_t side() const { return patch_ * pooling_; }  // the side of a soft token, in pixels
  int64_t most_pixels() const { return soft_tokens_ * side() * side(); }

  // The largest size of about this shape that fits. Computed in doubles and in the order of the
  // reference, because a product may lie just below a whole number.
  std::pair<int64_t, int64_t> size_for(int64_t height, int64_t width,
                                       const std::string& origin) const {
    const double factor =
        std::sqrt(static_cast<double>(most_pixels()) / static_cast<double>(height * width));
    auto whole = [&](int64_t length) {
      return static_cast<int64_t>(
                 std::floor(factor * static_cast<double>(length) / static_cast<double>(side()))) *
             side();
    };
    int64_t h = whole(height), w = whole(width);
    const int64_t longest = soft_tokens_ * side();
    if (h == 0) {
      h = side();
      w = std::min(width / height * side(), longest);
    } else if (w == 0) {
      w = side();
      h = std::min(height / width * side(), longest);
    }
    if (h * w > most_pixels())
      fail("{}: a picture of {} x {} pixels is too long for this model; crop it", origin, width,
           height);
    return {h, w};
  }

  ValueScaling scaling_;
  int64_t patch_, pooling_, soft_tokens_;
};

}  // namespace

std::unique_ptr<ImageProcessor> gemma4_image_processor(const Json& config) {
  return std::make_unique<Gemma4ImageProcessor>(config);
}

}  // namespace quern::prompt
