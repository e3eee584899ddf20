// Decodes PNG, JPEG and still WebP pictures to the pixels that Pillow's exif_transpose and
// convert("RGB") give (transformers' load_image): alpha is dropped, not blended; color profiles and
// gamma are ignored. All limits on memory are checked before pixels are decoded, because pictures
// are untrusted.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "tensor/tensor.h"

namespace quern::prompt {

struct ImageLimits {
  int64_t pixels = 100'000'000;  // width times height
};

// uint8 [3, height, width], red first. Thread-safe. `origin` names the picture in messages. Fails
// on another format, on sides of 0 or more than 65,535 pixels, on more pixels than the limit, on
// several frames, on files that are corrupt or end early, and on grayscale of 16 bits (which Pillow
// does not scale to 8).
Tensor decode_image(std::string_view bytes, const std::string& origin,
                    const ImageLimits& limits = {});

}  // namespace quern::prompt
