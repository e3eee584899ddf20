// The main job: a checkpoint goes in, a folder of packed weights comes out, block by block. Memory
// holds one block, its activations and nothing of the rest of the model.
#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "compress/autoround.h"
#include "compress/recipe.h"
#include "nn/weights.h"
#include "quant/pack.h"

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
  quant::Format format = quant::Format::auto_round;
  size_t max_shard_bytes = 5'000'000'000;
  // Iterations, learning rate and batch size come from the recipe.
  AutoRoundOptions tuning;
  bool drop_unused = false;  // tensors that no pass reads are left out
  // Set from outside to stop: the block that is being worked on is finished, then compress() fails
  // with Exit::interrupted.
  const std::atomic<bool>* stop = nullptr;
};

struct ExpertTokens {
  int64_t least = 0, median = 0;
  int64_t dead = 0;  // experts that no calibration token reached
};

struct BlockReport {
  int block = 0, blocks = 0;
  std::string name;                        // "model.language_model.layers.3"
  int64_t linears = 0;                     // quantized in it
  double loss_before = 0, loss_after = 0;  // 0 without calibration
  int best_iteration = 0;
  ExpertTokens expert_tokens;
  double seconds = 0;
  size_t peak_memory_bytes = 0;  // of the process so far
};

// Called while compress() works, always from the calling thread.
struct Progress {
  std::function<void(int block, int blocks, const std::string& name)> block_begins;
  std::function<void(int iteration, int iterations)> iteration_done;
  std::function<void(const BlockReport&)> block_done;
};

struct CompressReport {
  std::vector<std::string> warnings;  // of the recipe
  std::vector<std::string> dropped;   // tensors of the source that were left out
  std::vector<BlockReport> blocks;
  std::vector<Verdict> verdicts;              // of every linear, in the order of the model
  size_t source_bytes = 0, output_bytes = 0;  // of all tensors
  double seconds = 0;
};

// Fails with Exit::infeasible, naming the step, when this build lacks the method of one.
void check_methods(const Recipe& recipe);

// Writes everything but what verification adds: shards, index, config.json and
// quantization_config.json, recipe.yaml, the source's other files, quantization_errors.json and
// quantization.yaml.
CompressReport compress(const std::shared_ptr<const nn::Source>& source, const Recipe& recipe,
                        const Calibration& calibration, const CompressOptions& options,
                        const Progress& progress);

}  // namespace quern::compress
