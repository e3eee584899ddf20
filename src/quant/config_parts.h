// Functions that several formats use to write or read their quantization_config.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "quant/config.h"

namespace quern::quant {

// A pattern and its decision.
struct Rule {
  Match match;
  std::optional<Scheme> scheme;
};

// Fails unless the condition holds; the message begins with the object's path.
void require(bool condition, const Json& json, std::string_view what);
// The element of this kind and number of bits; fails with the object's path if there is none.
const Element& required_element(const Json& json, const std::string& type, int bits);

// The distinct schemes of the quantized linears: the most common first, the others in order of
// appearance. Fails when nothing is quantized.
std::vector<Scheme> distinct_schemes(const std::vector<ModuleScheme>& linears);
// `linears` plus the parts of fused units that the model lacks, each after the sibling that names
// it.
std::vector<ModuleScheme> with_absent_parts(const std::vector<ModuleScheme>& linears);
// The name as a regular expression.
std::string escaped(std::string_view name);

// For auto-round and GPTQ: the linears whose scheme is not `usual`, each with the keys in which it
// differs, and the fused units of these linears, because some versions of vLLM look up the parts,
// others the unit. Sorted by name.
std::vector<std::pair<std::string, JsonValue>> overrides(const std::vector<ModuleScheme>& linears,
                                                         const Scheme& usual);
// Adds the tuning settings; like auto-round, omits those equal to its defaults.
void add_tuning(JsonValue& json, const ConfigDetails& details);
JsonValue sorted(const JsonValue& json);

// The default scheme of such a config; and the scheme of an entry, which may omit keys equal to
// `usual`. None: 16 bits or more.
Scheme usual_scheme(const Json& json);
std::optional<Scheme> scheme_in(const Json& json, const Scheme& usual);

}  // namespace quern::quant
