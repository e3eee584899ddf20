// Pictures in prompts: decoded, prepared, and given their places among the tokens of the rendered
// text.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "prompt/image.h"
#include "prompt/image_processor.h"

namespace quern::prompt {

// How the prompts of a model hold a picture. A template writes `image` once for each; the model
// reads it once for each soft token, between the other two.
struct ImageTokens {
  int32_t image = -1;
  std::vector<int32_t> before = {}, after = {};
  // Soft tokens have positions by row and column.
  bool by_grid = false;
};

// A prompt as a model with a vision tower reads it.
struct ImagePrompt {
  struct Image {
    int64_t first;  // soft token, in `tokens`
    Patches patches;
  };
  std::vector<int32_t> tokens;
  std::vector<Image> images;
};

// Pictures for one model. May be used by several threads at once; touches no files.
class ImageReader {
 public:
  // `processor` may be null: then there is a sentence for the first picture.
  ImageReader(std::unique_ptr<const ImageProcessor> processor, ImageTokens tokens,
              const ImageLimits& limits = {});

  // tokens: of the rendered text, with one image token for each picture. Fails when there are more
  // or fewer, and on pictures that decode_image or the processor refuse.
  ImagePrompt operator()(std::span<const int32_t> tokens,
                         const std::vector<std::string>& images) const;

 private:
  std::unique_ptr<const ImageProcessor> processor_;
  ImageTokens tokens_;
  ImageLimits limits_;
};

}  // namespace quern::prompt
