// What model files ask of a config.json beside its values: a setting that changes the arithmetic
// and is not implemented must not be passed over, and neither must one that contradicts another or
// the tensors.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "nn/weights.h"
#include "ops/routing.h"

namespace quern::models {

// Fails if `key` is there, is not null and has none of these values, naming it and them. `wanted`
// is JSON: "true", "1", "\"silu\"".
void only(const Json& c, const std::string& key, const std::vector<std::string>& wanted);

// Fails on a key that is not among `known` and whose name speaks of arithmetic (scale, norm, bias,
// router, window, ...), unless its value says "nothing": null, false or empty. Other keys are about
// tokens, training and storage, and anybody may add some.
void refuse_unknown(const Json& c, const std::vector<std::string_view>& known);

// Fails if this many experts cannot be chosen from like this. `path` names the configuration.
void check_routing(const ops::SigmoidTopK& rule, int64_t experts, const std::string& path);

// Fails if the checkpoint has a block behind the last of `layers`, which it lists at `place`.
void expect_last_block(const nn::Weights& place, int layers);

}  // namespace quern::models
