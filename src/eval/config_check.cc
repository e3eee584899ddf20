#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/json.h"
#include "eval/checks.h"

namespace quern::eval {
namespace {

// The scheme in quantization_config; an error of the config becomes a finding.
std::optional<quant::Scheme> scheme_of(const nn::Source& artifact, const std::string& module,
                                       VerifyReport& report) {
  try {
    return artifact.quantization->scheme_of(module);
  } catch (const Error& error) {
    found(report, module, "{}", error.what());
    return std::nullopt;
  }
}

void check_unit(const nn::Source& artifact, const std::string& unit,
                const std::vector<std::string>& parts, VerifyReport& report) {
  try {
    artifact.quantization->check_unit(unit, parts);
  } catch (const Error& error) {
    found(report, unit, "{}", error.what());
  }
}

// auto-round writes its settings twice, and readers differ in which copy they use.
void check_copies(const checkpoint::Files& files, VerifyReport& report) {
  const char* second = "quantization_config.json";
  if (!files.config().has("quantization_config") || !files.has_file(second)) return;
  // The order of keys may differ.
  const nlohmann::json a = files.json(second), b = files.config().at("quantization_config").value();
  if (a != b) {
    found(report, second,
          "differs from quantization_config in config.json; readers may use either");
  }
}

}  // namespace

void check_config(const Pair& pair, VerifyReport& report) {
  const nn::Source& artifact = *pair.artifact;
  if (!artifact.quantization) {
    return found(report, "config.json",
                 "has no quantization_config, so readers do not know how the weights "
                 "are stored");
  }
  check_copies(artifact.files, report);
  int64_t packed_modules = 0;
  std::map<std::string, std::vector<std::string>> units;
  for (const Module& module : pair.modules) {
    const bool packed = is_packed(artifact.files, module.name);
    const auto scheme = scheme_of(artifact, module.name, report);
    packed_modules += packed;
    if (packed && !scheme) {
      found(report, module.name,
            "is packed, but quantization_config states that it is not quantized");
    } else if (!packed && scheme) {
      found(report, module.name,
            "is not packed, but quantization_config states that it is {}; add it to the modules "
            "to ignore",
            scheme->text());
    }
    if (!module.fused.empty()) units[module.fused].push_back(module.name);
  }
  for (const auto& [unit, parts] : units) check_unit(artifact, unit, parts, report);
  if (packed_modules == 0) found(report, "", "nothing is quantized");
}

}  // namespace quern::eval
