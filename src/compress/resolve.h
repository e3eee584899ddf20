// From the rules of a recipe to one verdict for each linear, before any weight changes. A rule that
// matches nothing is an error: it is a misspelt name.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "compress/recipe.h"
#include "nn/role.h"

namespace quern::compress {

using nn::Role;

// A linear of the checkpoint, as a model lists it.
struct LinearInfo {
  std::string name;  // "model.language_model.layers.0.mlp.experts.3.up_proj"
  int64_t rows = 0, columns = 0;
  Role role = Role::ordinary;
  std::string unit = {};  // the same for linears that vLLM loads as one; empty: alone
  std::string class_name = "Linear";
};

struct Verdict {
  std::string name;
  std::optional<quant::Scheme> scheme;  // none: kept as it is
  std::string reason;                   // the rule that decided, for people
  bool too_narrow = false;              // kept because its shape is no multiple of 32
  bool draft = false;                   // quantized because Recipe::drafts let a rule reach it
  size_t step = 0;                      // of the recipe; meaningless when kept
  quant::Observer observer = quant::Observer::minmax;
  quant::ShrinkSearch shrink = {};
  ActOrder act_order = ActOrder::none;
  std::optional<size_t> pruned_by = {};  // the step that sets some of its weights to zero
};

struct Resolution {
  std::vector<Verdict> verdicts;  // one for each linear, in the order given
  std::vector<std::string> warnings;

  int64_t quantized() const;
};

// Routers, shared expert gates, drafts, vision and audio are outside of patterns and classes: only
// their full name as a target quantizes them; so is lm_head, but for a pattern that contains its
// name. Fails when a target, a layer rule or an ignore entry of the style auto_round matches
// nothing (with the nearest names), with Exit::infeasible when the kernels cannot hold what a
// linear becomes (limits.h), when linears that vLLM loads as one get different schemes, when
// nothing is quantized, and when nothing of a draft layer is, though Recipe::drafts asks for it. An
// ignore entry of a recipe that matches nothing is a warning: recipes list alternatives, such as
// both attention and self_attn, and modules that are no linears. The scale_dtype of the schemes is
// left to the output format.
Resolution resolve(const Recipe& recipe, const std::vector<LinearInfo>& listed);

}  // namespace quern::compress
