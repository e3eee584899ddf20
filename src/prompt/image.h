// Pictures: PNG, JPEG and still WebP files -> pixels, equal to what Pillow's exif_transpose and
// convert("RGB") make of them (transformers' load_image): alpha is dropped, not blended; color
// profiles and gamma are not looked at. Everything that bounds memory is checked before pixels are
// decoded, because pictures come from strangers.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "tensor/tensor.h"

namespace quern::prompt {

struct ImageLimits {
  int64_t pixels = 100'000'000;  // width times height
};

// uint8 [3, height, width], red first. May be called by several threads at once. `origin` names the
// picture in messages. Fails on another format, on sides of 0 or more than 65,535 pixels, on more
// pixels than the limit, on several frames, on files that are corrupt or end early, and on
// grayscale of 16 bits (which Pillow does not scale to 8).
Tensor decode_image(std::string_view bytes, const std::string& origin,
                    const ImageLimits& limits = {});

}  // namespace quern::prompt
