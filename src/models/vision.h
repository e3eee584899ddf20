// What model files ask of the file of their vision tower, and where the text model lies.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "models/settings.h"
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

// The settings of the text model: `text_config`, or all of config.json of a text-only checkpoint,
// which has its tensors right below "model", too. Fails if something outside of `text_config`
// speaks of arithmetic.
Json text_config(const Json& config);
nn::Weights text_model(const nn::Weights& root);

// The base of the rotation in two dimensions that a vision tower's settings name. Fails on another
// rotation.
double axial_theta(const Settings& vision_config, double otherwise);

// Fails unless the patches are what a tower with these settings takes.
void check_patches(const prompt::Patches& patches, int64_t values, int64_t merge);

}  // namespace quern::models
