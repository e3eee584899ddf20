// The three decoders of decode_image, each in a file around the library of its format.
#pragma once

#include "prompt/image.h"

namespace quern::prompt {

struct DecodedImage {
  Tensor rgb;           // uint8 [height, width, 3]
  int orientation = 1;  // EXIF's value: 1 is upright
};

DecodedImage decode_png(std::string_view bytes, const std::string& origin,
                        const ImageLimits& limits);
DecodedImage decode_jpeg(std::string_view bytes, const std::string& origin,
                         const ImageLimits& limits);
DecodedImage decode_webp(std::string_view bytes, const std::string& origin,
                         const ImageLimits& limits);

// Fails if a picture of this size must not be decoded.
void check_image_size(int64_t width, int64_t height, const std::string& origin,
                      const ImageLimits& limits);

// The orientation in a block of EXIF data (a TIFF header and its first directory); 1 if it is
// absent or the block is malformed.
int exif_orientation(std::string_view tiff);

}  // namespace quern::prompt
