// The formats in which other programs store quantized weights. A format is one file and a row of
// formats.cc: the tensors of a matrix and the quantization_config, both written and read.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"
#include "quant/grid.h"
#include "quant/scheme.h"
#include "tensor/tensor.h"

namespace quern::quant {

struct ModuleScheme;
struct ConfigDetails;

// A tensor on disk.
struct DiskTensor {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;
};
using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

// Looks up a tensor by its full name; undefined if absent.
using Lookup = std::function<Tensor(const std::string& name)>;

// Compiles a Python regular expression to a test with the meaning of re.match: anchored at the
// start. (The engine lives in prompt/, which this folder may not use.)
using Match = std::function<bool(std::string_view text)>;
using CompilePattern = std::function<Match(const std::string& pattern)>;

// The decision of quantization_config for one module name.
struct Decision {
  std::optional<Scheme> scheme;  // none: kept
  bool named = false;            // by a rule for it, not by the default
};
using Rules = std::function<Decision(const std::string& module)>;

struct Format {
  std::string_view name;                            // as users write it after --format
  std::span<const std::string_view> quant_methods;  // in quantization_config
  // Every tensor that a module may have; those with the codes and the scales come first. from_disk
  // reads or checks all that exist.
  std::span<const std::string_view> parts;
  Grid grid;             // the grid of the tools that write this format
  bool own_config_file;  // also write quantization_config.json, which some readers use

  bool operator==(const Format& other) const { return name == other.name; }
  std::string_view codes() const { return parts[0]; }
  std::string_view scales() const { return parts[1]; }

  // The dtype of stored scales.
  DType (*scale_dtype)(DType weight_dtype);
  // Why the format cannot hold a matrix of this scheme and shape, as the rest of a sentence; "" if
  // it can.
  std::string (*refusal)(const Scheme& scheme, int64_t rows, int64_t columns);
  // Names, dtypes and shapes of the tensors of one matrix, and the tensors themselves in this
  // order.
  std::vector<DiskTensor> (*planned)(const std::string& module, int64_t rows, int64_t columns,
                                     const Scheme& scheme);
  std::vector<Tensor> (*to_disk)(const QuantWeight& weight);
  QuantWeight (*from_disk)(const std::string& module, const Scheme& scheme, const Lookup& lookup);

  JsonValue (*config)(const std::vector<ModuleScheme>& linears, const ConfigDetails& details);
  // Fails on a layout or number type that quern does not read, and names it.
  Rules (*rules)(const Json& config, const CompilePattern& compile);
};

std::span<const Format* const> formats();
// Null if there is no such format.
const Format* format_named(std::string_view name);
const Format* format_of_method(std::string_view quant_method);

// Whether the tensors of a packed module exist, in any format.
bool is_packed(const std::string& module, const std::function<bool(const std::string&)>& has);
// The packed module whose codes the tensor holds; none for other tensors.
std::optional<std::string> packed_module(std::string_view tensor);

// Format::planned. Fails, naming the module, when the format cannot hold the matrix.
std::vector<DiskTensor> planned(const std::string& module, int64_t rows, int64_t columns,
                                const Scheme& scheme, const Format& format);

// The tensors of one matrix; a stack is written one expert at a time. Tensors may share the
// weight's memory.
NamedTensors to_disk(const std::string& module, const QuantWeight& weight, const Format& format);

// The inverse of to_disk(). `scheme` comes from quantization_config; scales keep their dtype on
// disk. Fails, naming the tensor, on a missing tensor, a wrong dtype or shape, a scale that is not
// finite, and on columns that are not in the order of their groups.
QuantWeight from_disk(const std::string& module, const Scheme& scheme, const Format& format,
                      const Lookup& lookup);

}  // namespace quern::quant
