// What a run leaves behind beside the weights, so that the artifact can be traced and checked:
// quantization.yaml for people, quantization_errors.json for `verify`.
#pragma once

#include <map>
#include <mutex>
#include <string>

#include "compress/compress.h"
#include "quant/scheme.h"

namespace quern::compress {

// The error of every quantized matrix and a digest of its codes, collected from any thread.
class MatrixRecords {
 public:
  // `original` is the matrix that `weight` stands for.
  void add(const std::string& module, const Tensor& original, const quant::QuantWeight& weight);
  JsonValue json() const;

 private:
  struct Record {
    double relative_error;
    std::string sha256;
  };
  mutable std::mutex mutex_;
  std::map<std::string, Record> records_;
};

// SHA-256 of codes, scales and zeros, one after the other.
std::string digest(const quant::QuantWeight& weight);

// The text of quantization.yaml: versions, SHA-256 of all weight files of source and output,
// recipe, calibration, losses.
JsonValue provenance(const nn::Source& source, const std::filesystem::path& output,
                     const std::string& recipe_text, const Calibration& calibration,
                     const CompressOptions& options, const CompressReport& report);

}  // namespace quern::compress
