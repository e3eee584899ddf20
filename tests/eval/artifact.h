// Shared by the tests of this folder: artifacts of the tiny trained model, rounded to nearest,
// which a test may damage.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/carry_over.h"
#include "checkpoint/config_patch.h"
#include "checkpoint/shard_writer.h"
#include "eval/modules.h"
#include "nn/weights.h"
#include "quant/grid.h"
#include "quant/record.h"
#include "tests/formats.h"
#include "tests/scratch.h"

namespace quern::eval {

inline std::filesystem::path test_data(const std::string& name) {
  return std::filesystem::path(QUERN_SOURCE_DIR) / "tests" / "data" / name;
}

// The trunk without routers, gates, in_proj_a and in_proj_b, head, drafts and vision: what the
// peers quantized for the figures of score_test.cc.
inline bool is_quantized(const Module& module) {
  return module.role == nn::Role::ordinary && !module.name.ends_with("in_proj_a") &&
         !module.name.ends_with("in_proj_b");
}

// Rounds `source` to nearest in groups of 128 and writes the files of compress().
inline void write_artifact(const std::filesystem::path& source_folder,
                           const std::filesystem::path& folder, const quant::Format& format) {
  auto source = std::make_shared<nn::Source>(source_folder);
  const bool llm_compressor = format == kCompressedTensors;
  const quant::Grid grid =
      llm_compressor ? quant::Grid::compressed_tensors : quant::Grid::auto_round;
  std::vector<quant::ModuleScheme> linears;
  std::map<std::string, std::vector<checkpoint::PlannedTensor>> packed;  // by the source's tensor
  std::vector<std::pair<std::string, Tensor>> tensors;
  quant::Records records;
  for (const Module& module : modules_of(source)) {
    if (!is_quantized(module)) {
      linears.push_back({module.name, std::nullopt, module.fused});
      continue;
    }
    const quant::Scheme scheme = {.scale_dtype = format.scale_dtype(module.weight.scalar_type())};
    linears.push_back({module.name, scheme, module.fused});
    const auto weight = quant::round_to_nearest(module.weight, scheme, {.grid = grid});
    for (const auto& [name, tensor] : quant::to_disk(module.name, weight, format)) {
      packed[module.source].push_back({name, tensor.scalar_type(), tensor.sizes().vec(),
                                       checkpoint::Fate::quantized, module.source});
      tensors.emplace_back(name, tensor);
    }
    records.matrices[module.name] =
        quant::record_of(module.weight, weight, {quant::Bound::Kind::code_distance, 0.5});
  }
  std::vector<checkpoint::PlannedTensor> plan;
  for (const std::string& name : source->files.names()) {
    if (auto found = packed.find(name); found != packed.end()) {
      plan.insert(plan.end(), found->second.begin(), found->second.end());
    } else {
      plan.push_back(checkpoint::PlannedTensor::copy_of(source->files.info(name)));
    }
  }
  std::filesystem::create_directories(folder);
  checkpoint::ShardWriter writer(folder, plan, &source->files);
  for (const auto& [name, tensor] : tensors) writer.write(name, tensor);
  writer.finish();
  checkpoint::copy_other_files(source->files, folder, {"config.json"});
  const JsonValue config =
      quant::quantization_config(format, linears, {.blocks = {"model.language_model.layers"}});
  const auto original = source_folder / "config.json";
  write_file(folder / "config.json",
             checkpoint::with_key(read_file(original), "quantization_config", config, "config"));
  if (format == kAutoGptq) write_file(folder / "quantization_config.json", quern::to_text(config));
  write_file(folder / quant::kRecordFile, quern::to_text(quant::to_json(records)));
}

}  // namespace quern::eval
