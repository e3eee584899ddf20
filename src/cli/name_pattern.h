// One pattern for names of modules and tensors that differ only in numbers.
#pragma once

#include <string>

namespace quern::cli {

// "model.layers.12.mlp.experts.3.up_proj" -> "model.layers.*.mlp.experts.*.up_proj"
std::string name_pattern(const std::string& name);

}  // namespace quern::cli
