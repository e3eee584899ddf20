// quantization_config, the block in config.json that tells a reader how the weights are stored:
// written so that vLLM of any version reads it, and read back from our own artifacts and from those
// of llm-compressor, auto-round and GPTQ tools.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "quant/pack.h"
#include "quant/scheme.h"

namespace quern::quant {

// One linear of the checkpoint, by its module name, and how it is stored; none: as it was.
struct ModuleScheme {
  std::string module;
  std::optional<Scheme> scheme;
  std::string fused = {};  // the module that vLLM makes of it and its siblings; "" if none
};

// The module names of the parts that vLLM looks up when the last component of `module` is the name
// of a unit that it loads as one; else empty. A model may lack some of them.
std::vector<std::string> fused_parts(std::string_view module);

// What was done, as far as quantization_config has a place for it.
struct ConfigDetails {
  std::vector<std::string> blocks;             // "model.language_model.layers"; auto_round only
  std::string draft = "mtp";                   // where a draft layer lies; "" for none
  std::string observer = "memoryless_minmax";  // compressed_tensors only
  int iters = 0;                               // 0: round to nearest
  int64_t samples = 128;
  int64_t sequence_length = 2048;
  int64_t batch_size = 8;
  std::optional<double> learning_rate = {};  // none: 1 / iters
  // Keys and values in 8-bit floats with one scale a tensor; compressed_tensors only.
  bool fp8_kv_cache = false;
};

// `linears` are all linears of the checkpoint, in its order, quantized or not. A part of a fused
// unit that the model lacks is written as the others are, because vLLM asks for every part.
//   compressed_tensors  the commonest scheme has the target "Linear", others list their modules;
//                       `ignore` names every linear that was kept, a draft by "re:^mtp.*".
//   auto_round          extra_config names every linear that differs, and vLLM's fused names.
//   gptq                `dynamic` excludes what was kept, by patterns.
// Fails when nothing is quantized.
JsonValue quantization_config(Format format, const std::vector<ModuleScheme>& linears,
                              const ConfigDetails& details);

// Compiles a Python regular expression to a test with the meaning of re.match: anchored at the
// start. (The engine lives in prompt/, which this folder may not use.)
using Match = std::function<bool(std::string_view text)>;
using CompilePattern = std::function<Match(const std::string& pattern)>;

// A quantization_config that was read.
class QuantizationConfig {
 public:
  // Fails on a method, format or number type that quern does not read, naming it.
  QuantizationConfig(const Json& json, const CompilePattern& compile);

  Format format() const { return format_; }

  // How the module's weight is stored; none: unquantized. vLLM's rules: an exact name, then
  // patterns, then the default. The scale_dtype is what the format usually has; from_disk() sees
  // the real one.
  std::optional<Scheme> scheme_of(const std::string& module) const;
  // Fails when the parts of a fused unit are not stored alike, or when its own name says something
  // else: some versions of vLLM look up the parts, others the unit.
  void check_unit(const std::string& unit, const std::vector<std::string>& parts) const;

  // What one module name says.
  struct Decision {
    std::optional<Scheme> scheme;
    bool named = false;  // by a rule of its own, not by the default
  };

 private:
  Format format_;
  std::function<Decision(const std::string& module)> decide_;
};

}  // namespace quern::quant
