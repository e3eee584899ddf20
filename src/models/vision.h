// The interface between a model file and its vision tower's file, and the place of the text model.
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

// `config`: config.json. None if it has no vision_config.
std::optional<Sight> gemma4_sight(const Json& config);
std::optional<Sight> qwen3_6_sight(const Json& config);

// The settings of the text model: `text_config`, or all of config.json for a text-only checkpoint,
// whose tensors are directly below "model". Fails on a setting of arithmetic outside `text_config`.
Json text_config(const Json& config);
nn::Weights text_model(const nn::Weights& root);

// The base of a vision tower's two-dimensional rotation. Fails on another type of rotation.
double axial_theta(const Settings& vision_config, double otherwise);

// Fails unless the patches fit a tower with these settings.
void check_patches(const prompt::Patches& patches, int64_t values, int64_t merge);

}  // namespace quern::models
