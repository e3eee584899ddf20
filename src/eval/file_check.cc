#include <nlohmann/json.hpp>

#include "base/file.h"
#include "checkpoint/carry_over.h"
#include "eval/checks.h"
#include "quant/record.h"

namespace quern::eval {
namespace {

namespace fs = std::filesystem;
constexpr std::string_view kQuantization = "quantization_config";

// Reports every place where two documents differ.
void compare_json(const JsonValue& source, const JsonValue& artifact, const std::string& place,
                  VerifyReport& report) {
  if (!source.is_object() || !artifact.is_object()) {
    if (source != artifact) {
      found(report, "config.json", "{} is {}, but {} in the source", place, artifact.dump(),
            source.dump());
    }
    return;
  }
  auto within = [&](const std::string& key) { return place.empty() ? key : place + "." + key; };
  for (const auto& [key, value] : source.items()) {
    if (place.empty() && key == kQuantization) continue;
    if (!artifact.contains(key)) {
      found(report, "config.json", "{} is missing", within(key));
    } else {
      compare_json(value, artifact.at(key), within(key), report);
    }
  }
  for (const auto& [key, value] : artifact.items()) {
    if (source.contains(key) || (place.empty() && key == kQuantization)) continue;
    found(report, "config.json", "{} is {}, but the source has no such key", within(key),
          value.dump());
  }
}

// Files that may differ: the model card, and files that compress writes.
bool may_differ(const fs::path& file) {
  return file == "README.md" || file == "config.json" || file == "quantization_config.json" ||
         file == "recipe.yaml" || file == "quantization.yaml" || file == quant::kRecordFile ||
         checkpoint::is_weight_file(file);
}

}  // namespace

void check_files(const Pair& pair, VerifyReport& report) {
  const auto &source = pair.source->files, &artifact = pair.artifact->files;
  compare_json(source.config().value(), artifact.config().value(), "", report);
  for (const fs::path& file : source.files()) {
    if (may_differ(file)) continue;
    if (!fs::exists(artifact.folder() / file)) {
      found(report, file.string(), "is missing, but the source has it");
      continue;
    }
    if (sha256_of_file(source.folder() / file) != sha256_of_file(artifact.folder() / file))
      found(report, file.string(), "differs from the source's");
  }
}

}  // namespace quern::eval
