#include "prompt/image_processor.h"

#include <nlohmann/json.hpp>
#include <vector>

#include "base/error.h"
#include "prompt/image_scaling.h"

namespace quern::prompt {

std::unique_ptr<ImageProcessor> gemma4_image_processor(const Json& config);
std::unique_ptr<ImageProcessor> qwen2_vl_image_processor(const Json& config);

namespace {

namespace fs = std::filesystem;

struct Row {
  const char* type;
  std::unique_ptr<ImageProcessor> (*make)(const Json& config);
};

constexpr Row kTable[] = {
    {"Gemma4ImageProcessor", gemma4_image_processor},
    {"Gemma4ImageProcessorFast", gemma4_image_processor},
    {"Qwen2VLImageProcessor", qwen2_vl_image_processor},
    {"Qwen2VLImageProcessorFast", qwen2_vl_image_processor},
};

std::unique_ptr<ImageProcessor> make(const Json& config) {
  const auto type = config.get<std::string>("image_processor_type");
  std::vector<std::string> known;
  for (const Row& row : kTable) {
    if (type == row.type) return row.make(config);
    known.emplace_back(row.type);
  }
  fail("{}: image_processor_type {} is not supported; supported: {}", config.path(), type,
       fmt::join(known, ", "));
}

Tensor per_channel(const Json& config, const char* key, const std::vector<double>& otherwise) {
  const auto values = config.has(key) ? config.get<std::vector<double>>(key) : otherwise;
  if (values.size() != 3) fail("{}: {} must have 3 numbers", config.path(), key);
  return at::tensor(values, at::kFloat).reshape({3, 1, 1});
}

}  // namespace

std::unique_ptr<ImageProcessor> image_processor(const fs::path& folder) {
  if (const fs::path file = folder / "processor_config.json"; fs::exists(file)) {
    const JsonValue value = read_json(file);
    const Json config(value, file.string());
    if (config.has("image_processor")) return make(config.at("image_processor"));
  }
  const fs::path file = folder / "preprocessor_config.json";
  if (!fs::exists(file)) return nullptr;
  const JsonValue value = read_json(file);
  return make(Json(value, file.string()));
}

int64_t positive(const Json& config, const char* key, int64_t otherwise, int64_t most) {
  const auto value = config.get<int64_t>(key, otherwise);
  if (value < 1 || value > most)
    fail("{}: {} is {}, but must be 1 to {}", config.path(), key, value, most);
  return value;
}

Tensor resized(const Tensor& rgb, int64_t height, int64_t width) {
  if (rgb.size(1) == height && rgb.size(2) == width) return rgb;
  return at::_upsample_bicubic2d_aa(rgb.unsqueeze(0), {height, width}, /*align_corners=*/false)
      .squeeze(0);
}

ValueScaling::ValueScaling(const Json& config, const Defaults& defaults)
    : rescale_(config.get<bool>("do_rescale", true)),
      normalize_(config.get<bool>("do_normalize", defaults.normalize)),
      factor_(config.get<double>("rescale_factor", 1.0 / 255)),
      mean_(per_channel(config, "image_mean", defaults.mean)),
      deviation_(per_channel(config, "image_std", defaults.deviation)) {
  constexpr int64_t kBicubic = 3;
  if (!config.get<bool>("do_resize", true) || config.get<bool>("do_center_crop", false))
    fail("{}: do_resize false and do_center_crop are not implemented", config.path());
  if (config.get<int64_t>("resample", kBicubic) != kBicubic)
    fail("{}: resample {} is not implemented; use 3 (bicubic)", config.path(),
         config.get<int64_t>("resample"));
  if (!(factor_ > 0) || (normalize_ && !(deviation_ > 0).all().item<bool>()))
    fail("{}: rescale_factor and image_std must be positive", config.path());
  if (!rescale_ || !normalize_) return;
  // Combines both steps, which rounds as transformers' fast processors do.
  mean_ = mean_ * (1.0 / factor_);
  deviation_ = deviation_ * (1.0 / factor_);
}

Tensor ValueScaling::operator()(const Tensor& rgb) const {
  const Tensor values = rgb.to(at::kFloat);
  if (normalize_) return values.sub(mean_).div_(deviation_);
  return rescale_ ? values * factor_ : values;
}

}  // namespace quern::prompt
