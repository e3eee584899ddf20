// quantization_config, the block in config.json that states how the weights are stored. It is
// written for all versions of vLLM, and read from our own artifacts and from those of
// llm-compressor, auto-round and GPTQ tools.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "quant/format.h"
#include "quant/scheme.h"

namespace quern::quant {

// One linear of the checkpoint by its module name, and its scheme (none: unquantized). The model
// file adds the module into which vLLM fuses the linear and its siblings, and the parts of that
// unit that the model lacks (one of the siblings names them).
struct ModuleScheme {
  std::string module;
  std::optional<Scheme> scheme;
  std::string fused = {};  // "" if none
  std::vector<std::string> absent = {};
  std::string in_block = {};  // its name inside its block; "" outside blocks
  bool expert = false;        // vLLM makes experts one module, whose name is not that of a part
  bool head = false;          // the model's output head
};

// The details of a run that quantization_config can state.
struct ConfigDetails {
  std::vector<std::string> blocks;             // "model.language_model.layers"; auto_round only
  std::string draft = "mtp";                   // the place of a draft layer; "" for none
  std::string observer = "memoryless_minmax";  // compressed-tensors only
  int iters = 0;                               // 0: round-to-nearest
  int64_t samples = 128;
  int64_t sequence_length = 2048;
  int64_t batch_size = 8;
  std::optional<double> learning_rate = {};  // none: 1 / iters
  // Keys and values in 8-bit floats with one scale per tensor; compressed-tensors only.
  bool fp8_kv_cache = false;
};

// `linears` are all linears of the checkpoint, quantized or not, in its order. A part of a fused
// unit that the model lacks gets the scheme of its siblings, because vLLM looks up every part.
// Fails when nothing is quantized.
JsonValue quantization_config(const Format& format, const std::vector<ModuleScheme>& linears,
                              const ConfigDetails& details);

// A quantization_config that was read.
class QuantizationConfig {
 public:
  // Fails on a method, format or number type that quern does not read, and names it.
  QuantizationConfig(const Json& json, const CompilePattern& compile);

  const Format& format() const { return *format_; }

  // The scheme of the module's weight; none: unquantized. Follows vLLM's precedence: an exact name,
  // then patterns, then the default. The scale_dtype is the format's usual one; from_disk() sees
  // the actual one.
  std::optional<Scheme> scheme_of(const std::string& module) const;
  // Fails when the parts of a fused unit have different schemes, or when the unit's own name has
  // another scheme: some versions of vLLM look up the parts, others the unit.
  void check_unit(const std::string& unit, const std::vector<std::string>& parts) const;

 private:
  const Format* format_;
  Rules rules_;
};

}  // namespace quern::quant
