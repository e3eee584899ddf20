// The dtypes of safetensors files and their names, except sub-byte dtypes (F4, F6_*).
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "tensor/tensor.h"

namespace quern::checkpoint {

// "BF16" -> at::kBFloat16; none for an unknown name.
std::optional<DType> dtype_of(std::string_view name);

// The name in a file, "BF16". Fails for a dtype that safetensors files cannot hold.
std::string_view dtype_name(DType dtype);

// The rank by which the safetensors library sorts the tensors of a file, highest first.
int dtype_rank(DType dtype);

// All names for messages: "BF16, F16, ...".
std::string dtype_names();

}  // namespace quern::checkpoint
