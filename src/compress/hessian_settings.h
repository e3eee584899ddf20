// Settings of the methods that adjust the remaining columns to compensate for the error of a
// column.
#pragma once

#include <cstdint>

#include "base/json.h"

namespace quern::compress {

struct HessianSettings {
  int64_t block_size = 128;  // columns between updates of the rest of the matrix
  double dampening = 0.01;   // of the mean of the diagonal
};

HessianSettings read_hessian(const Json& json);
void write_hessian(const HessianSettings& settings, JsonValue& fields);

}  // namespace quern::compress
