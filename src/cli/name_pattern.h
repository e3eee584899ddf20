// Names of modules and tensors that differ in numbers only, as one pattern.
#pragma once

#include <string>

namespace quern::cli {

// "model.layers.12.mlp.experts.3.up_proj" -> "model.layers.*.mlp.experts.*.up_proj"
std::string name_pattern(const std::string& name);

}  // namespace quern::cli
