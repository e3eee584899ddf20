// The formats in which other programs store quantized weights. A format is a file of its own and a
// row of formats.cc: the tensors of a matrix and its quantization_config, each in both directions.
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
struct PlannedTensor {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;
};
using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

// Looks a tensor up by its full name; undefined when there is none.
using Lookup = std::function<Tensor(const std::string& name)>;

// Compiles a Python regular expression to a test with the meaning of re.match: anchored at the
// start. (The engine lives in prompt/, which this folder may not use.)
using Match = std::function<bool(std::string_view text)>;
using CompilePattern = std::function<Match(const std::string& pattern)>;

// What quantization_config says of one module name.
struct Decision {
  std::optional<Scheme> scheme;  // none: kept
  bool named = false;            // by a rule of its own, not by the default
};
using Rules = std::function<Decision(const std::string& module)>;

struct Format {
  std::string_view name;                            // as users write it after --format
  std::span<const std::string_view> quant_methods;  // in quantization_config
  // Every tensor that a module may have, those first that hold the codes and the scales. from_disk
  // reads or checks all that are there.
  std::span<const std::string_view> parts;
  Grid grid;             // of the tools that write it
  bool own_config_file;  // quantization_config.json too, which some readers look at

  bool operator==(const Format& other) const { return name == other.name; }
  std::string_view codes() const { return parts[0]; }
  std::string_view scales() const { return parts[1]; }

  // What scales are stored in.
  DType (*scale_dtype)(DType weight_dtype);
  // Why the format cannot hold such a matrix, as the rest of a sentence; "" if it can.
  std::string (*refusal)(const Scheme& scheme, int64_t rows, int64_t columns);
  // Names, dtypes and shapes of what one matrix becomes, and the tensors themselves in this order.
  std::vector<PlannedTensor> (*planned)(const std::string& module, int64_t rows, int64_t columns,
                                        const Scheme& scheme);
  std::vector<Tensor> (*to_disk)(const QuantWeight& weight);
  QuantWeight (*from_disk)(const std::string& module, const Scheme& scheme, const Lookup& lookup);

  JsonValue (*config)(const std::vector<ModuleScheme>& linears, const ConfigDetails& details);
  // Fails on a layout or number type that is not read, naming it.
  Rules (*rules)(const Json& config, const CompilePattern& compile);
};

std::span<const Format* const> formats();
// Null if there is no such format.
const Format* format_named(std::string_view name);
const Format* format_of_method(std::string_view quant_method);

// Whether the tensors of a packed module are there, in any format.
bool is_packed(const std::string& module, const std::function<bool(const std::string&)>& has);
// The packed module that a tensor holds the codes of; none if it holds other things.
std::optional<std::string> packed_module(std::string_view tensor);

// Format::planned. Fails, naming the module, when the format cannot hold such a matrix.
std::vector<PlannedTensor> planned(const std::string& module, int64_t rows, int64_t columns,
                                   const Scheme& scheme, const Format& format);

// One matrix; for a stack, one expert after the other. Tensors may share the weight's memory.
NamedTensors to_disk(const std::string& module, const QuantWeight& weight, const Format& format);

// The inverse. `scheme` is what quantization_config says of the module; scales keep the dtype that
// they have on disk. Fails, naming the tensor, on a missing one, a wrong dtype or shape, a scale
// that is not finite, and on columns that are not in the order of their groups.
QuantWeight from_disk(const std::string& module, const Scheme& scheme, const Format& format,
                      const Lookup& lookup);

}  // namespace quern::quant
