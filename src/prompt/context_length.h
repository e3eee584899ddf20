// How many tokens a model was made for.
#pragma once

#include <cstdint>

#include "base/json.h"

namespace quern::prompt {

// Of a config.json, or of its text_config: max_position_embeddings, times the factor of rope
// scaling as vLLM counts it: YaRN multiplies original_max_position_embeddings; Llama 3 and LongRoPE
// are included already. 0 if the file does not say.
int64_t context_length(const JsonValue& config);

}  // namespace quern::prompt
