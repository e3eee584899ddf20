// What a gated MLP does to its gate before it multiplies.
#pragma once

namespace quern::ops {

enum class Activation { silu, gelu_tanh };

}  // namespace quern::ops
