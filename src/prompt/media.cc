#include "prompt/media.h"

#include <algorithm>

#include "base/error.h"
#include "base/file.h"

namespace quern::prompt {

std::string digest_of(const std::vector<ImagePrompt::Image>& images) {
  std::string digest;
  for (const auto& image : images) {
    const Tensor values = image.patches.values.contiguous();
    digest += '\n';
    digest += sha256({static_cast<const char*>(values.const_data_ptr()), values.nbytes()});
  }
  return digest;
}

ImageReader::ImageReader(std::unique_ptr<const ImageProcessor> processor, ImageTokens tokens,
                         const ImageLimits& limits)
    : processor_(std::move(processor)), tokens_(std::move(tokens)), limits_(limits) {}

ImagePrompt ImageReader::operator()(std::span<const int32_t> tokens,
                                    const std::vector<std::string>& images) const {
  const auto places = std::count(tokens.begin(), tokens.end(), tokens_.image);
  if (places != std::ssize(images)) {
    fail("the prompt has {} places for pictures, but {} pictures are given", places, images.size());
  }
  if (!images.empty() && !processor_) {
    fail(
        "this model folder has no image processor: neither processor_config.json nor "
        "preprocessor_config.json exists; copy it from the original model");
  }
  ImagePrompt prompt;
  for (int32_t token : tokens) {
    if (token != tokens_.image) {
      prompt.tokens.push_back(token);
      continue;
    }
    const size_t index = prompt.images.size();
    const std::string origin = fmt::format("picture {}", index + 1);
    Patches patches = (*processor_)(decode_image(images[index], origin, limits_), origin);
    prompt.tokens.insert(prompt.tokens.end(), tokens_.before.begin(), tokens_.before.end());
    const int64_t first = std::ssize(prompt.tokens);
    prompt.tokens.insert(prompt.tokens.end(), patches.soft_tokens(), tokens_.image);
    prompt.tokens.insert(prompt.tokens.end(), tokens_.after.begin(), tokens_.after.end());
    prompt.images.push_back({first, std::move(patches)});
  }
  return prompt;
}

}  // namespace quern::prompt
