// quantization.yaml: where the weights of an artifact come from and how they were made.
#pragma once

#include <filesystem>
#include <string>

#include "compress/compress.h"

namespace quern::compress {

// Versions, SHA-256 of all weight files of source and output,
// recipe, calibration, losses.
JsonValue provenance(const nn::Source& source, const std::filesystem::path& output,
                     const std::string& recipe_text, const Calibration& calibration,
                     const CompressOptions& options, const CompressReport& report);

}  // namespace quern::compress
