// generation_config.json: what a model's maker advises about answers. Read here and nowhere else.
#pragma once

#include <filesystem>

#include "base/json.h"

namespace quern::prompt {

// The file of a folder of which no checkpoint is open (else checkpoint::Files::json, which follows
// no link out of the folder, returns the same); an empty object if there is none. Fails when it
// holds no object.
JsonValue generation_config(const std::filesystem::path& folder);

// Of what the file holds, the keys that vLLM makes defaults of: temperature, top_k, top_p, min_p,
// repetition_penalty and max_new_tokens, as far as they are set. As in vLLM, `do_sample` is not
// looked at. In a file, values that equal Hugging Face's own defaults are not meant, which matters
// for one: a top_k of 50.
enum class Meant { not_by_default, all };
JsonValue sampling_defaults(const JsonValue& generation_config,
                            Meant meant = Meant::not_by_default);

}  // namespace quern::prompt
