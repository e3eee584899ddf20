#include "compress/provenance.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/threads.h"
#include "base/version.h"
#include "base/yaml.h"
#include "kernels/kernels.h"

namespace quern::compress {
namespace {

namespace fs = std::filesystem;

JsonValue hashes(const fs::path& folder, const std::vector<fs::path>& files) {
  std::vector<std::string> sums(files.size());
  parallel_for(static_cast<int64_t>(files.size()),
               [&](int64_t i) { sums[i] = sha256_of_file(folder / files[i]); });
  JsonValue list = JsonValue::object();
  for (size_t i = 0; i < files.size(); ++i) list[files[i].string()] = sums[i];
  return list;
}

std::vector<fs::path> weight_files(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() == ".safetensors") files.push_back(entry.path().filename());
  }
  std::sort(files.begin(), files.end());
  return files;
}

JsonValue block_entry(const BlockReport& block) {
  return {{"name", block.name},
          {"linears", block.linears},
          {"loss_before", block.loss_before},
          {"loss_after", block.loss_after},
          {"best_iteration", block.best_iteration},
          {"tokens_per_expert",
           {{"min", block.expert_tokens.least},
            {"median", block.expert_tokens.median},
            {"dead", block.expert_tokens.dead}}}};
}

}  // namespace

JsonValue provenance(const nn::Source& source, const fs::path& output,
                     const std::string& recipe_text, const Calibration& calibration,
                     const CompressOptions& options, const CompressReport& report) {
  JsonValue document;
  document["quern"] = kVersion;
  document["isa"] = kernels::cpu_kernels().name;
  document["format"] = std::string(options.format.name);
  document["source"] = {{"name", fs::canonical(source.files.folder()).filename().string()},
                        {"bytes", report.source_bytes},
                        {"sha256", hashes(source.files.folder(), source.files.shards())}};
  document["output"] = {{"bytes", report.output_bytes},
                        {"sha256", hashes(output, weight_files(output))}};
  document["recipe"] = parse_yaml(recipe_text, "recipe.yaml");
  document["seed"] = options.tuning.seed;
  document["calibration"] = calibration.manifest;
  if (!report.dropped.empty()) document["dropped"] = report.dropped;
  document["blocks"] = JsonValue::array();
  for (const BlockReport& block : report.blocks) document["blocks"].push_back(block_entry(block));
  return document;
}

}  // namespace quern::compress
