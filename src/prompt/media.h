// Pictures in prompts: decodes and prepares them, and places them among the tokens of the rendered
// text.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "prompt/image.h"
#include "prompt/image_processor.h"

namespace quern::prompt {

// The token ids that represent a picture in a model's prompts. A template writes `image` once for
// each picture; the model reads `image` once for each soft token, between the other two ids.
struct ImageTokens {
  int32_t image = -1;
  std::vector<int32_t> before = {}, after = {};
  // Soft tokens have positions by row and column.
  bool by_grid = false;
};

// A prompt for a model with a vision tower.
struct ImagePrompt {
  struct Image {
    int64_t first;  // its first soft token, in `tokens`
    Patches patches;
  };
  std::vector<int32_t> tokens;
  std::vector<Image> images;
};

// Equal only for equal pictures: prompts with other pictures are other prompts, though their tokens
// may be equal.
std::string digest_of(const std::vector<ImagePrompt::Image>& images);

// Reads pictures for one model. Thread-safe; opens no files.
class ImageReader {
 public:
  // `processor` may be null; the first picture then fails with a message.
  ImageReader(std::unique_ptr<const ImageProcessor> processor, ImageTokens tokens,
              const ImageLimits& limits = {});

  // tokens: the rendered text, with one image token for each picture. Fails on another number of
  // image tokens, and on pictures that decode_image or the processor refuses.
  ImagePrompt operator()(std::span<const int32_t> tokens,
                         const std::vector<std::string>& images) const;

 private:
  std::unique_ptr<const ImageProcessor> processor_;
  ImageTokens tokens_;
  ImageLimits limits_;
};

}  // namespace quern::prompt
