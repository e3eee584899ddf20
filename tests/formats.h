// The formats by short names.
#pragma once

#include "quant/format.h"

namespace quern {

inline const quant::Format& kAutoGptq = *quant::format_named("auto_gptq");
inline const quant::Format& kCompressedTensors = *quant::format_named("compressed-tensors");
inline const quant::Format& kGptq = *quant::format_named("gptq");

}  // namespace quern
