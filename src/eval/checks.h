// The parts of verify(); each adds its findings to the report.
#pragma once

#include <fmt/format.h>

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "eval/modules.h"
#include "eval/verify.h"
#include "nn/weights.h"
#include "quant/record.h"

namespace quern::eval {

using SourcePointer = std::shared_ptr<const nn::Source>;

// The source, the artifact, and the modules that may be quantized.
struct Pair {
  SourcePointer source, artifact;
  std::vector<Module> modules;        // of the source, without those that the artifact omits
  std::set<std::string> unused = {};  // tensors of the source that the artifact may omit
  std::optional<quant::Records> records = {};  // of the artifact
};

// Whether any tensor of a packed module exists.
bool is_packed(const checkpoint::Files& files, const std::string& module);

// Checks that the artifact has every tensor of the source, quantized or byte for byte, and no
// others.
void check_tensors(const Pair& pair, VerifyReport& report);
// Checks config.json except quantization_config, and all other files.
void check_files(const Pair& pair, VerifyReport& report);
// Checks that quantization_config agrees with the tensors for every module.
void check_config(const Pair& pair, VerifyReport& report);
// Checks shapes, dtypes, scales and errors of every packed matrix.
void check_matrices(const Pair& pair, const MatrixLimits& limits, VerifyReport& report);
// Checks perplexities, divergence, top-1 agreement and a sample.
void check_quality(const Pair& pair, const VerifyOptions& options, VerifyReport& report);

// Adds an error about `tensor`.
template <class... Args>
void found(VerifyReport& report, const std::string& tensor, fmt::format_string<Args...> format,
           Args&&... args) {
  report.findings.push_back(
      {Severity::error, tensor, fmt::format(format, std::forward<Args>(args)...)});
}

}  // namespace quern::eval
