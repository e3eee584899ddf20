// The main job: reads a checkpoint and writes a folder of packed weights, block by block. Memory
// holds one block and its activations, and nothing else of the model.
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

// Token ids for calibration, and where they came from (for quantization.yaml).
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
  // Settings that have no field in a recipe.
  AutoRoundOptions tuning;
  bool drop_unused = false;  // omit the tensors that the model never reads
  // The memory that the job may take, in bytes; none: the memory of the machine or control group.
  std::optional<int64_t> memory_bytes = {};
  // The caller sets it to stop: compress() finishes the current block, then fails with
  // Exit::interrupted.
  const std::atomic<bool>* stop = nullptr;
};

// Whether a step of the recipe needs calibration data.
bool needs_data(const Recipe& recipe);

// Writes everything except what verification adds: shards, index, config.json,
// quantization_config.json, recipe.yaml, the source's other files, quantization_errors.json and
// quantization.yaml.
CompressReport compress(const std::shared_ptr<const nn::Source>& source, const Recipe& recipe,
                        const Calibration& calibration, const CompressOptions& options,
                        const Progress& progress);

}  // namespace quern::compress
