// Whether an artifact is what it says: its source, quantized and otherwise unchanged. Three parts,
// from the bytes to the model's words: the tensors and files, every quantized matrix, and the
// quality of the predictions. A defect of a single matrix does not show in the last, which is why
// there is the second.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "eval/score.h"
#include "eval/windows.h"

namespace quern::eval {

enum class Severity { note, warning, error };

struct Finding {
  Severity severity = Severity::error;
  std::string tensor;  // or module, or file: what it is about; empty: the whole artifact
  std::string message;
};

// "model.norm.weight: is missing"
std::string to_text(const Finding& finding);

// How far a matrix may be from the weight that it stands for, where its method bounds the distance
// of its codes (quant::Bound).
struct MatrixLimits {
  // Its error over that of round-to-nearest with the same scheme. AutoRound trades error of the
  // weight for error of the output: 0.92 to 1.24 on a small Qwen3.6 (llm-compressor's and ours, 100
  // and 200 iterations). Flipping the lowest bit of every code makes it 3.6, the root of 13.
  double error_ratio = 2;
};

struct VerifyOptions {
  bool matrices = true;  // the second part
  bool quality = true;   // the third: off for checkpoints that were never trained

  MatrixLimits limits = {};
  std::string text = {};  // empty: short conversations of our own, in the chat format of the source
  WindowOptions windows = {.length = 256};
  ScoreOptions score = {};
  double max_kld = 0.05;       // mean, nats a token
  double min_top1 = 0.90;      // share of tokens
  int64_t sample_tokens = 80;  // to generate greedily; 0: none
  // Called when a part begins, with its name.
  std::function<void(const std::string& part)> part_begins = {};
};

// A quantized matrix, checked on its own.
struct MatrixCheck {
  std::string module;
  std::string scheme;
  double relative_error = 0;  // |w - dequantized| / |w|
  double error_ratio = 0;     // over that of round-to-nearest; 1 when both are 0
  bool recorded = false;      // error and hash equal what compress wrote down
  bool bounded = false;       // its codes were held against the bound of its method
};

// What the artifact says when left to itself.
struct Sample {
  std::string prompt, answer;
  bool degenerate = false;  // one token over and over, or a short loop
};

struct VerifyReport {
  std::vector<Finding> findings;  // in the order of the checks
  int64_t tensors = 0;            // of the source
  int64_t copied = 0;             // of those, byte-identical in the artifact
  int64_t dropped = 0;            // of those, left out of the artifact; no pass reads them
  std::vector<MatrixCheck> matrices;
  // quantization_errors.json is there. Without it nothing says what the method of a matrix may do
  // to it, so none was compared with its weight.
  bool has_record = false;
  std::optional<Comparison> quality;
  std::optional<Sample> sample;

  bool passed() const;  // no finding is an error
};

// Fails when the source cannot be read or there is no folder `artifact`; whatever is wrong with
// what the folder holds is a finding.
VerifyReport verify(const std::filesystem::path& artifact, const std::filesystem::path& source,
                    const VerifyOptions& options = {});

std::string to_text(const VerifyReport& report);  // several lines, for people
JsonValue to_json(const VerifyReport& report);

}  // namespace quern::eval
