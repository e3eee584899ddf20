// The parts of verify(), each of which adds what it finds to the report.
#pragma once

#include <fmt/format.h>

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "eval/modules.h"
#include "eval/verify.h"
#include "nn/weights.h"

namespace quern::eval {

using SourcePointer = std::shared_ptr<const nn::Source>;

// Source and artifact, and what may be quantized in them.
struct Pair {
  SourcePointer source, artifact;
  std::vector<Module> modules;        // of the source, without those that the artifact leaves out
  std::set<std::string> unused = {};  // tensors of the source that the artifact may leave out
};

// Whether any of the tensors of a packed module is there.
bool is_packed(const checkpoint::Files& files, const std::string& module);

// Every tensor of the source is there, quantized or byte for byte, and there is nothing else.
void check_tensors(const Pair& pair, VerifyReport& report);
// config.json but for quantization_config, and all other files.
void check_files(const Pair& pair, VerifyReport& report);
// quantization_config says of every module what the tensors say.
void check_config(const Pair& pair, VerifyReport& report);
// Shapes, dtypes, scales and errors of every packed matrix.
void check_matrices(const Pair& pair, const MatrixLimits& limits, VerifyReport& report);
// Perplexities, divergence, top-1 agreement and a sample.
void check_quality(const Pair& pair, const VerifyOptions& options, VerifyReport& report);

// Adds an error about `tensor`.
template <class... Args>
void found(VerifyReport& report, const std::string& tensor, fmt::format_string<Args...> format,
           Args&&... args) {
  report.findings.push_back(
      {Severity::error, tensor, fmt::format(format, std::forward<Args>(args)...)});
}

}  // namespace quern::eval
