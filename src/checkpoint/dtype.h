// The dtypes of safetensors files and their names. Sub-byte ones (F4, F6_*) are not among them.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "tensor/tensor.h"

namespace quern::checkpoint {

// "BF16" -> at::kBFloat16; nothing for a name that is not known.
std::optional<DType> dtype_of(std::string_view name);

// "BF16", as a file spells it. Fails for a dtype that safetensors files cannot hold.
std::string_view dtype_name(DType dtype);

// Place in the order by which the safetensors library sorts the tensors of a file, highest first.
int dtype_rank(DType dtype);

// "BF16, F16, ...": all of them, for messages.
std::string dtype_names();

}  // namespace quern::checkpoint
