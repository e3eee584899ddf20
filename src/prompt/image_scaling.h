// Resizing and scaling of values, shared by the image processors.
#pragma once

#include <vector>

#include "base/json.h"
#include "tensor/tensor.h"

namespace quern::prompt {

// The limit of pixels after resizing, because the settings are untrusted.
constexpr int64_t kMostResizedPixels = int64_t{1} << 26;

// A count in an image processor's settings. Fails unless it is 1 to `most`.
int64_t positive(const Json& config, const char* key, int64_t otherwise, int64_t most);

// Bicubic resizing of bytes with antialiasing. rgb uint8 [3, height, width] -> uint8 [3, h, w].
Tensor resized(const Tensor& rgb, int64_t height, int64_t width);

// `do_rescale`, `rescale_factor`, `do_normalize`, `image_mean` and `image_std` of a processor.
class ValueScaling {
 public:
  // Fails if `config` disables resizing, or states a filter other than bicubic, or cropping. Absent
  // settings have `defaults`.
  struct Defaults {
    bool normalize;
    std::vector<double> mean, deviation;
  };
  ValueScaling(const Json& config, const Defaults& defaults);

  // uint8 [3, h, w] -> fp32 [3, h, w].
  Tensor operator()(const Tensor& rgb) const;

 private:
  bool rescale_, normalize_;
  double factor_;
  Tensor mean_, deviation_;  // fp32 [3, 1, 1], in units of bytes if both steps are enabled
};

}  // namespace quern::prompt
