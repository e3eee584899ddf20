// The places of a model, or of one block, that methods work on.
#pragma once

#include <string>
#include <vector>

#include "nn/weights.h"

namespace quern::compress {

struct Sites {
  std::vector<nn::LinearSite> linears;
  std::vector<nn::NormSite> norms;  // those that linears read
};

// A kept tensor of these sites as it is now in memory, in the dtype of the checkpoint: of a norm,
// or of a linear that does not share it.
Tensor stored_tensor(const Sites& sites, const std::string& name);

}  // namespace quern::compress
