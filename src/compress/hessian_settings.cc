#include "compress/hessian_settings.h"

#include <nlohmann/json.hpp>

#include "base/error.h"

namespace quern::compress {

HessianSettings read_hessian(const Json& json) {
  HessianSettings settings;
  settings.block_size = json.get<int64_t>("block_size", settings.block_size);
  settings.dampening = json.get<double>("dampening_frac", settings.dampening);
  if (settings.block_size < 1 || !(settings.dampening > 0))
    fail("{}: expected block_size >= 1 and dampening_frac > 0", json.path());
  return settings;
}

void write_hessian(const HessianSettings& settings, JsonValue& fields) {
  fields["block_size"] = settings.block_size;
  fields["dampening_frac"] = settings.dampening;
}

}  // namespace quern::compress
