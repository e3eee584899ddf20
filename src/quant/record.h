// The records that compress writes for every quantized matrix, and for every other tensor whose
// numbers it changed, with which a reader can prove that nothing has changed since:
// quantization_errors.json,
//   {"<module>": {"relative_error": 0.0931..., "sha256": "<hex>",
//                 "bound": {"code_distance": 1}}, ...,
//    "<tensor>": {"sha256": "<hex>"}, ...}
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "base/json.h"
#include "quant/scheme.h"
#include "tensor/tensor.h"

namespace quern::quant {

inline constexpr const char* kRecordFile = "quantization_errors.json";

// What the method of a matrix promises about its codes, in addition to the recorded error.
//   none           nothing: GPTQ moves codes by several steps, other methods change weights first
//   code_distance  |q - clamp(w / s + z, 0, 15)| <= limit for every code
//   rescaled       nothing: rows or columns were multiplied first (AWQ), so that not even the size
//                  of the error says how good the codes are
struct Bound {
  enum class Kind { none, code_distance, rescaled };
  Kind kind = Kind::none;
  double limit = 0;

  bool operator==(const Bound&) const = default;
};

struct MatrixRecord {
  double relative_error = 0;  // |w - dequantized| / |w|; see quant/dequantize.h
  std::string sha256;         // digest() of its QuantWeight
  Bound bound = {};
};
using MatrixRecords = std::map<std::string, MatrixRecord>;  // by module name

struct Records {
  MatrixRecords matrices;
  std::map<std::string, std::string> changed;  // tensors with other values than in the source, and
                                               // the digest of each
};

// `original` is the matrix before quantization.
MatrixRecord record_of(const Tensor& original, const QuantWeight& weight, const Bound& bound);

// Hexadecimal SHA-256 over the bytes of the codes, then the scales, then the zeros if present.
std::string digest(const QuantWeight& weight);
// Over the bytes of the tensor.
std::string digest(const Tensor& tensor);

JsonValue to_json(const Records& records);

// None when the folder does not have the file.
std::optional<Records> read_records(const std::filesystem::path& folder);

}  // namespace quern::quant
