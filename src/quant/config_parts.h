// What several formats need to write their quantization_config, or to read one.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "quant/config.h"

namespace quern::quant {

// A pattern with what it decides.
struct Rule {
  Match match;
  std::optional<Scheme> scheme;
};

// Fails with the object's path.
void require(bool condition, const Json& json, std::string_view what);
// The element of this kind and number of bits; fails with the object's path if there is none.
const Element& required_element(const Json& json, const std::string& type, int bits);

// The distinct schemes of the quantized linears, the commonest first, then in order of appearance.
// Fails when nothing is quantized.
std::vector<Scheme> distinct_schemes(const std::vector<ModuleScheme>& linears);
// With the parts of fused units that the model lacks, each after the sibling that names it.
std::vector<ModuleScheme> with_absent_parts(const std::vector<ModuleScheme>& linears);
// As a regular expression.
std::string escaped(std::string_view name);

// For auto-round and GPTQ: the linears that are not stored as `usual`, each with the keys in which
// it differs, followed by every fused unit of them: some versions of vLLM look up the parts, others
// the unit. In the order of their names.
std::vector<std::pair<std::string, JsonValue>> overrides(const std::vector<ModuleScheme>& linears,
                                                         const Scheme& usual);
// auto-round leaves out what equals its defaults.
void add_tuning(JsonValue& json, const ConfigDetails& details);
JsonValue sorted(const JsonValue& json);

// The scheme for all of such a config; and that of an entry, which may leave out what `usual` says.
// None: 16 bits or more.
Scheme usual_scheme(const Json& json);
std::optional<Scheme> scheme_in(const Json& json, const Scheme& usual);

}  // namespace quern::quant
