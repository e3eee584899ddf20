// The config.json of an artifact: the source's config.json plus a quantization_config.
#pragma once

#include <memory>

#include "compress/compress.h"
#include "compress/plan.h"
#include "nn/model.h"

namespace quern::compress {

// Writes config.json, and for AutoRound's and GPTQ's readers quantization_config.json, into
// options.output.
void write_configuration(const std::shared_ptr<const nn::Source>& source, const nn::Model& model,
                         const Plan& plan, const Recipe& recipe, const Calibration& calibration,
                         const CompressOptions& options);

}  // namespace quern::compress
