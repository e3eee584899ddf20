// The matrices of a checkpoint that may be quantized, by their module names, whatever tensor holds
// them.
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
  Tensor weight;                 // as stored, [rows, columns]; looks into the mapped file
  std::string fused;             // what vLLM makes of it and its siblings; "" if nothing
  std::optional<nn::Role> role;  // none: not part of the model that quern runs (vision, audio)
};

// All matrices of an unquantized checkpoint: those of the model and its draft layer in their order,
// then every other 2-D weight; embeddings are not among them.
std::vector<Module> modules_of(const std::shared_ptr<const nn::Source>& source);

// Tensors of the checkpoint that no pass reads.
std::set<std::string> unused_tensors(const std::shared_ptr<const nn::Source>& source);

}  // namespace quern::eval
