// The roles of linears.
#pragma once

namespace quern::nn {

// The function of a linear, as far as it decides whether the linear may be quantized. draft: an
// ordinary linear of a draft layer; draft_input: joins embedding and state for a draft layer.
enum class Role {
  ordinary,
  stem,  // before the blocks, which AutoRound does not reach
  router,
  shared_expert_gate,
  lm_head,
  draft,
  draft_input,
  vision,
  audio
};

}  // namespace quern::nn
