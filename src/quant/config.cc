#include "quant/config.h"

#include <fmt/ranges.h>

#include <nlohmann/json.hpp>

#include "base/error.h"

namespace quern::quant {
namespace {

const Format& format_in(const Json& json) {
  const auto method = json.get<std::string>("quant_method");
  if (const Format* format = format_of_method(method)) return *format;
  std::vector<std::string_view> known;
  for (const Format* format : formats()) known.push_back(format->quant_methods[0]);
  fail("{}: quant_method is {}; quern reads {}", json.path(), method, fmt::join(known, ", "));
}

}  // namespace

JsonValue quantization_config(const Format& format, const std::vector<ModuleScheme>& linears,
                              const ConfigDetails& details) {
  return format.config(linears, details);
}

QuantizationConfig::QuantizationConfig(const Json& json, const CompilePattern& compile)
    : format_(&format_in(json)), rules_(format_->rules(json, compile)) {}

std::optional<Scheme> QuantizationConfig::scheme_of(const std::string& module) const {
  return rules_(module).scheme;
}

void QuantizationConfig::check_unit(const std::string& unit,
                                    const std::vector<std::string>& parts) const {
  const std::optional<Scheme> scheme = scheme_of(parts.front());
  for (const std::string& part : parts) {
    if (scheme_of(part) == scheme) continue;
    fail("quantization_config: {} and {} are parts of {}, but are stored differently",
         parts.front(), part, unit);
  }
  const Decision whole = rules_(unit);
  if (!whole.named || whole.scheme == scheme) return;
  fail("quantization_config: it states another scheme for {} than for its part {}", unit,
       parts.front());
}

}  // namespace quern::quant
