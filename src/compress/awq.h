// AWQ (Lin et al., "AWQ: Activation-aware Weight Quantization", 2023): moves scale from activations
// to weights before the weights are rounded.
#pragma once

#include <string>
#include <vector>

namespace quern::compress {

// The output of the modules that smooth_layer matches (norms or linears) is divided by a scale for
// each channel, and the columns of the linears that read it (balance_layers) are multiplied by the
// same scale. Patterns have the syntax of targets.
struct AwqMapping {
  std::string smooth_layer;
  std::vector<std::string> balance_layers;
};

// Whether the scale also depends on the weights; `both` tries both.
enum class DuoScaling { off, on, both };

struct AwqSettings {
  std::vector<AwqMapping> mappings = {};  // none: those of the architecture
  DuoScaling duo_scaling = DuoScaling::on;
  int grid = 20;  // number of scales to try
};

}  // namespace quern::compress
