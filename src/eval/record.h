// What compress writes down of every matrix that it quantized, so that a later reader can prove
// that nothing has changed since: quantization_errors.json,
//   {"<module>": {"relative_error": 0.0931..., "sha256": "<hex>"}, ...}
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "checkpoint/checkpoint.h"
#include "quant/pack.h"

namespace quern::eval {

inline constexpr const char* kRecordFile = "quantization_errors.json";

struct MatrixRecord {
  double relative_error = 0;  // |w - dequantized| / |w|, quant::relative_error
  std::string sha256;         // digest() of its QuantWeight
};

// By module name; none when the folder has no such file.
std::optional<std::map<std::string, MatrixRecord>> read_record(
    const checkpoint::Checkpoint& artifact);

// SHA-256 over the bytes of the codes, then the scales, then the zeros if there are any.
std::string digest(const quant::QuantWeight& weight);

}  // namespace quern::eval
