// The order of columns in GPTQ's schemes.
#pragma once

#include "base/json.h"
#include "compress/recipe.h"

namespace quern::compress {

// The field "actorder". "static" and "weight" mean the same: columns are rounded in the order of
// their activations' size and stored in their original places. Fails on an order that stores them
// elsewhere.
ActOrder act_order_of(const Json& json);

}  // namespace quern::compress
