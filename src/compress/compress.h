// The main job: a checkpoint goes in, a folder of packed weights comes out, block by block. Memory
// holds one block, its activations and nothing of the rest of the model.
#pragma once

#include <atomic>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "compress/autoround.h"
#include "compress/recipe.h"
#include "compress/report.h"
#include "nn/weights.h"
#include "quant/format.h"

namespace quern::compress {

// Token ids to calibrate with, and where they came from (for quantization.yaml).
struct Calibration {
  std::vector<std::vector<int32_t>> windows;
  std::vector<std::vector<nn::PlacedImage>> images;  // of each window, or empty
  JsonValue manifest;
};

struct CompressOptions {
  // A folder that exists and is empty (checkpoint::OutputFolder::path).
  std::filesystem::path output;
  quant::Format format = *quant::format_named("auto_gptq");
  size_t max_shard_bytes = 5'000'000'000;
  // What the recipe has no place for.
  AutoRoundOptions tuning;
  bool drop_unused = false;  // tensors that no pass reads are left out
  // The memory that the job may take, in bytes; none: that of the machine or control group.
  std::optional<int64_t> memory_bytes = {};
  // Set from outside to stop: the block that is being worked on is finished, then compress() fails
  // with Exit::interrupted.
  const std::atomic<bool>* stop = nullptr;
};

// Fails with Exit::infeasible, naming the step, when this build lacks the method of one.
void check_methods(const Recipe& recipe);

// Whether a step of the recipe learns from calibration data.
bool needs_data(const Recipe& recipe);

// Writes everything but what verification adds: shards, index, config.json and
// quantization_config.json, recipe.yaml, the source's other files, quantization_errors.json and
// quantization.yaml.
CompressReport compress(const std::shared_ptr<const nn::Source>& source, const Recipe& recipe,
                        const Calibration& calibration, const CompressOptions& options,
                        const Progress& progress);

}  // namespace quern::compress
