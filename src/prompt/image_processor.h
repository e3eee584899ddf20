// Pixels -> what a vision tower reads: resized, scaled and cut into patches by the image processor
// that a model folder names. Equal to transformers' processors on torchvision, the default; the
// resizing is LibTorch's own.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "base/json.h"
#include "tensor/tensor.h"

namespace quern::prompt {

// One picture in patches. The tower makes one soft token of every square of merge x merge patches.
struct Patches {
  Tensor values;          // fp32 [rows * columns, values of a patch], in the processor's order
  int64_t rows, columns;  // of the grid of patches; multiples of merge
  int64_t merge;

  int64_t soft_rows() const { return rows / merge; }
  int64_t soft_columns() const { return columns / merge; }
  int64_t soft_tokens() const { return soft_rows() * soft_columns(); }
};

// May be used by several threads at once.
class ImageProcessor {
 public:
  virtual ~ImageProcessor() = default;
  // rgb uint8 [3, height, width]. Fails on shapes that the model cannot take; `origin` names the
  // picture in messages.
  virtual Patches operator()(const Tensor& rgb, const std::string& origin) const = 0;
};

// By `image_processor` of processor_config.json, else by preprocessor_config.json. Null if the
// folder has neither. Fails on a processor, or a setting of it, that is not implemented.
std::unique_ptr<ImageProcessor> image_processor(const std::filesystem::path& folder);

}  // namespace quern::prompt
