// SparseGPT (Frantar and Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in
// One-Shot", 2023): sets a share of the weights to zero and adjusts the others to compensate.
#pragma once

#include <cstdint>

#include "compress/hessian_settings.h"

namespace quern::compress {

struct SparseGptSettings {
  HessianSettings hessian = {};
  double share = 0;           // of the weights that become zero
  int64_t zeros = 0, of = 0;  // "2:4": `zeros` among `of` neighbours; 0: anywhere
};

}  // namespace quern::compress
