// Turns pixels into the input of a vision tower: the image processor of a model folder resizes,
// scales and cuts them into patches. Equal to transformers' default processors, which use
// torchvision; LibTorch does the resizing.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "base/json.h"
#include "tensor/tensor.h"

namespace quern::prompt {

// One picture in patches. The tower makes one soft token from every square of merge x merge
// patches.
struct Patches {
  Tensor values;          // fp32 [rows * columns, values of a patch], in the processor's order
  int64_t rows, columns;  // of the patch grid; multiples of merge
  int64_t merge;

  int64_t soft_rows() const { return rows / merge; }
  int64_t soft_columns() const { return columns / merge; }
  int64_t soft_tokens() const { return soft_rows() * soft_columns(); }
};

// Thread-safe.
class ImageProcessor {
 public:
  virtual ~ImageProcessor() = default;
  // rgb uint8 [3, height, width]. Fails on shapes that the model cannot process; `origin` names the
  // picture in messages.
  virtual Patches operator()(const Tensor& rgb, const std::string& origin) const = 0;
};

// Reads `image_processor` of processor_config.json, otherwise preprocessor_config.json. Null if the
// folder has neither. Fails on a processor or setting that is not implemented.
std::unique_ptr<ImageProcessor> image_processor(const std::filesystem::path& folder);

}  // namespace quern::prompt
