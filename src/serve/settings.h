// Arguments -> the options of the parts that they set up.
#pragma once

#include <filesystem>
#include <string>

#include "serve/arguments.h"
#include "serve/server.h"

namespace quern::serve {

// Each fails with Exit::usage, naming the option and what it may be.
ServerOptions server_options(const Arguments& arguments, const Environment& environment);
ModelOptions model_options(const Arguments& arguments);

// The model's folder: a path, or the newest snapshot of a name in the Hugging Face cache
// ($HF_HOME). Nothing is downloaded.
std::filesystem::path model_folder(const Arguments& arguments, const Environment& environment);

// What --quantization says against what config.json says.
void check_quantization(const Arguments& arguments, const JsonValue& config);

// --kv-cache-memory-bytes, else the GiB of VLLM_CPU_KVCACHE_SPACE (or QUERN_...), else 0.
int64_t cache_bytes(const Arguments& arguments, const Environment& environment);

// --max-model-len, or the context that config.json states; fails when it is more than that.
int64_t max_model_len(const Arguments& arguments, const JsonValue& config);

}  // namespace quern::serve
