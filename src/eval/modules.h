// The matrices of a checkpoint that may be quantized, by module name, whatever tensor stores them.
#pragma once

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "nn/weights.h"

namespace quern::eval {

struct Module {
  std::string name;              // "model.layers.0.mlp.experts.3.up_proj"
  std::string source;            // the tensor that holds it; fused experts share one
  Tensor weight;                 // as stored, [rows, columns]; a view of the mapped file
  std::string fused;             // the module into which vLLM fuses it and its siblings; "" if none
  std::optional<nn::Role> role;  // none: not part of the model that quern runs (vision, audio)
};

// All matrices of an unquantized checkpoint except embeddings: first those of the model and its
// draft layer in order, then all other 2-D weights.
std::vector<Module> modules_of(const std::shared_ptr<const nn::Source>& source);

// Tensors of the checkpoint that the model never reads.
std::set<std::string> unused_tensors(const std::shared_ptr<const nn::Source>& source);

}  // namespace quern::eval
