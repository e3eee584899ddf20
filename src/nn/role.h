// What a linear is for.
#pragma once

namespace quern::nn {

// What a linear does, where that decides whether it may be quantized. draft: of a draft layer, and
// ordinary there; draft_input: joins embedding and state for a draft layer.
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
