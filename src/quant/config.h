// quantization_config, the block in config.json that tells a reader how the weights are stored:
// written so that vLLM of any version reads it, and read back from our own artifacts and from those
// of llm-compressor, auto-round and GPTQ tools.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "quant/format.h"
#include "quant/scheme.h"

namespace quern::quant {

// One linear of the checkpoint, by its module name, and how it is stored; none: as it was. What the
// model says of it: the module that vLLM makes of it and its siblings, and the parts of that unit
// that the model lacks (one of the siblings names them).
struct ModuleScheme {
  std::string module;
  std::optional<Scheme> scheme;
  std::string fused = {};  // "" if none
  std::vector<std::string> absent = {};
  std::string in_block = {};  // its name inside its block; "" outside of blocks
  bool expert = false;        // experts are one module in vLLM, by another name than any part
  bool head = false;          // the model's output head
};

// What was done, as far as quantization_config has a place for it.
struct ConfigDetails {
  std::vector<std::string> blocks;             // "model.language_model.layers"; auto_round only
  std::string draft = "mtp";                   // where a draft layer lies; "" for none
  std::string observer = "memoryless_minmax";  // compressed-tensors only
  int iters = 0;                               // 0: round to nearest
  int64_t samples = 128;
  int64_t sequence_length = 2048;
  int64_t batch_size = 8;
  std::optional<double> learning_rate = {};  // none: 1 / iters
  // Keys and values in 8-bit floats with one scale a tensor; compressed-tensors only.
  bool fp8_kv_cache = false;
};

// `linears` are all linears of the checkpoint, in its order, quantized or not. A part of a fused
// unit that the model lacks is written as its siblings are, because vLLM asks for every part. Fails
// when nothing is quantized.
JsonValue quantization_config(const Format& format, const std::vector<ModuleScheme>& linears,
                              const ConfigDetails& details);

// A quantization_config that was read.
class QuantizationConfig {
 public:
  // Fails on a method, format or number type that quern does not read, naming it.
  QuantizationConfig(const Json& json, const CompilePattern& compile);

  const Format& format() const { return *format_; }

  // How the module's weight is stored; none: unquantized. vLLM's rules: an exact name, then
  // patterns, then the default. The scale_dtype is what the format usually has; from_disk() sees
  // the real one.
  std::optional<Scheme> scheme_of(const std::string& module) const;
  // Fails when the parts of a fused unit are not stored alike, or when its own name says something
  // else: some versions of vLLM look up the parts, others the unit.
  void check_unit(const std::string& unit, const std::vector<std::string>& parts) const;

 private:
  const Format* format_;
  Rules rules_;
};

}  // namespace quern::quant
