// Turns the rules of a recipe into one verdict for each linear, before any weight changes. A rule
// that matches nothing is an error: probably a misspelt name.
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
  std::string unit = {};  // equal for linears that vLLM loads as one; empty: alone
  std::string class_name = "Linear";
};

struct Verdict {
  std::string name;
  std::optional<quant::Scheme> scheme;  // none: kept unchanged
  std::string reason;                   // the rule that decided, for people
  bool too_narrow = false;              // kept because its shape is not a multiple of 32
  bool draft = false;                   // quantized because Recipe::drafts let a rule reach it
  size_t step = 0;                      // index in the recipe; unused when kept
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

// Patterns and classes do not reach routers, shared expert gates, drafts, vision and audio: only a
// target with their full name quantizes them. The same holds for lm_head, except that a pattern
// that contains its name reaches it. Fails when a target, a layer rule or an ignore entry of the
// style auto_round matches nothing (with the nearest names), with Exit::infeasible when the kernels
// cannot hold a quantized linear (limits.h), when linears that vLLM loads as one get different
// schemes, when nothing is quantized, and when Recipe::drafts is set but no linear of a draft layer
// is quantized. An ignore entry of a recipe that matches nothing is only a warning: recipes list
// alternatives, such as both attention and self_attn, and modules that are not linears. The output
// format decides the scale_dtype of the schemes.
Resolution resolve(const Recipe& recipe, const std::vector<LinearInfo>& listed);

}  // namespace quern::compress
