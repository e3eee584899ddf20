// Arguments -> the options of the parts that they set up.
#pragma once

#include <filesystem>
#include <string>

#include "engine/options.h"
#include "serve/arguments.h"
#include "serve/server.h"

namespace quern::serve {

// Each fails with Exit::usage, naming the option and what it may be.
ServerOptions server_options(const Arguments& arguments, const Environment& environment);
ModelOptions model_options(const Arguments& arguments);

// The options of an engine for a model with this config.json and so many ids in its tokenizer.
engine::EngineOptions engine_options(const Arguments& arguments, const Environment& environment,
                                     const JsonValue& config, int64_t ids);

// The model's folder: a path, or the snapshot of a name in the Hugging Face cache to which
// --revision (or refs/main) points. Nothing is downloaded.
std::filesystem::path model_folder(const Arguments& arguments, const Environment& environment);

// What --quantization says against what config.json says.
void check_quantization(const Arguments& arguments, const JsonValue& config);

// --max-model-len, or the context that config.json states (prompt/context_length.h); fails when it
// is more than that.
int64_t max_model_len(const Arguments& arguments, const JsonValue& config);

}  // namespace quern::serve
