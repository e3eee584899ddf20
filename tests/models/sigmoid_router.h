// Parity of routers with sigmoid scores, which are not an output of a model.
#pragma once

#include "ops/norm.h"
#include "tests/models/parity.h"

namespace quern::models {

// The router of block 2 on prompt 1. With an MLP that adds nothing, the block returns the input of
// its second norm, from which the test computes the rest.
inline void expect_router(const std::string& fixture, Goldens& goldens, const std::string& bias,
                          const ops::SigmoidTopK& rule, double eps) {
  Changed changed(fixture);
  const std::string mlp = "model.layers.2.mlp.";
  for (auto& [name, tensor] : changed.tensors)
    if (name.starts_with(mlp) && name.ends_with("down_proj.weight"))
      tensor = at::zeros_like(tensor);
  const Whole whole(changed.write());

  at::NoGradGuard no_grad;
  nn::Pass pass = nn::Pass::whole({goldens.ids("p1.input_ids").size(0)});
  const Tensor hidden = (*whole.blocks[2])(goldens.tensor("p1.hidden.2"), pass);
  auto value = [&](const std::string& name) { return changed.tensors.at(name).to(at::kFloat); };
  const Tensor x =
      ops::rms_norm(hidden, value("model.layers.2.post_attention_layernorm.weight"), eps);
  const Tensor logits = at::matmul(x, value(mlp + "gate.weight").t());
  goldens.expect_logits("p1.router.2.logits", logits);

  // The goldens list the chosen experts by their numbers.
  const ops::Routing routing = ops::sigmoid_top_k(logits, value(mlp + bias), rule);
  const auto [experts, order] = routing.experts.sort(-1);
  EXPECT_TRUE(experts.equal(goldens.ids("p1.router.2.experts")));
  goldens.expect_states("p1.router.2.weights", routing.weights.gather(-1, order));
}

}  // namespace quern::models
