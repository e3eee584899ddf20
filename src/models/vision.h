// What model files ask of the file of their vision tower.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "nn/model.h"

namespace quern::models {

struct Sight {
  prompt::ImageTokens tokens;
  // Reads the tower's tensors; null if the checkpoint has none.
  std::function<std::unique_ptr<nn::Vision>(const nn::Weights& root)> tower;
};

// `config`: config.json. Unset if it has no vision_config.
std::optional<Sight> gemma4_sight(const Json& config);
std::optional<Sight> qwen3_6_sight(const Json& config);

// Fails unless the patches are what a tower with these settings takes.
void check_patches(const prompt::Patches& patches, int64_t values, int64_t merge);

}  // namespace quern::models
