// AWQ (Lin et al., "AWQ: Activation-aware Weight Quantization", 2023): moves scale from activations
// to weights before the weights are rounded.
#pragma once

#include <vector>

#include "compress/smoothing_rules.h"

namespace quern::compress {

// Whether the scale also depends on the weights; `both` tries both.
enum class DuoScaling { off, on, both };

// The scales that the search tries, and the grid on which it tries them. llm-compressor changed
// both when its AWQModifier stopped to quantize weights itself.
enum class AwqRules { until_0_10, since_0_11 };

struct AwqSettings {
  std::vector<SmoothingMapping> mappings = {};  // none: every place where scale can move
  DuoScaling duo_scaling = DuoScaling::on;
  int grid = 20;  // number of scales to try
  AwqRules rules = AwqRules::since_0_11;
};

}  // namespace quern::compress
