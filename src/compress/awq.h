// AWQ (Lin et al., "AWQ: Activation-aware Weight Quantization", 2023): moves scale from activations
// to weights before these are rounded.
#pragma once

#include <string>
#include <vector>

namespace quern::compress {

// What the first pattern names (norms or linears) is divided by a scale for each channel, and the
// columns of the linears that read it are multiplied by the same. Patterns are as in targets.
struct AwqMapping {
  std::string smooth_layer;
  std::vector<std::string> balance_layers;
};

// Whether the scale also depends on the weights; `both` tries both.
enum class DuoScaling { off, on, both };

struct AwqSettings {
  std::vector<AwqMapping> mappings = {};  // none: those of the architecture
  DuoScaling duo_scaling = DuoScaling::on;
  int grid = 20;  // scales that are tried
};

}  // namespace quern::compress
