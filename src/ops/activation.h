// The activation that a gated MLP applies to its gate.
#pragma once

namespace quern::ops {

enum class Activation { silu, gelu_tanh };

}  // namespace quern::ops
