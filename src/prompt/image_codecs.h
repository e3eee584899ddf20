// The three decoders behind decode_image, one file each around the library of the format.
#pragma once

#include "prompt/image.h"

namespace quern::prompt {

struct DecodedImage {
  Tensor rgb;           // uint8 [height, width, 3]
  int orientation = 1;  // as EXIF counts: 1 is upright
};

DecodedImage decode_png(std::string_view bytes, const std::string& origin,
                        const ImageLimits& limits);
DecodedImage decode_jpeg(std::string_view bytes, const std::string& origin,
                         const ImageLimits& limits);
DecodedImage decode_webp(std::string_view bytes, const std::string& origin,
                         const ImageLimits& limits);

// Fails unless a picture of this size may be decoded.
void check_image_size(int64_t width, int64_t height, const std::string& origin,
                      const ImageLimits& limits);

// The orientation in a block of EXIF data (a TIFF header and its first directory); 1 if there is
// none or the block is malformed.
int exif_orientation(std::string_view tiff);

}  // namespace quern::prompt
