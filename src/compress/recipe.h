// The steps of a recipe and the rules that choose their linears. A recipe comes from a recipe.yaml
// in llm-compressor's schema (recipe_read.h) or from command-line options with AutoRound's meanings
// (recipe_options.h).
#pragma once

#include <any>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "quant/grid.h"
#include "quant/scheme.h"

namespace quern::compress {

struct Method;  // compress/method.h

// The program whose meaning the rules of a recipe have.
//   llm_compressor  a plain entry is a full name or a class, "re:" is a Python regular expression
//                   that matches from the start of the name;
//   auto_round      an ignore entry is a full name, "re:" as above, or else a substring (an
//                   entry that ends in a digit gets a dot, so layers.1 does not match layers.10);
//                   a layer rule is a full name or an expression to search for; linears whose rows
//                   or columns are not multiples of 32 are kept.
enum class RuleStyle { llm_compressor, auto_round };

// The order in which GPTQ rounds the columns of a matrix: as stored, or by the size of their
// activations.
enum class ActOrder { none, by_activation };

// A scheme for the linears that its targets match.
struct SchemeGroup {
  std::string name;  // "group_0"
  std::vector<std::string> targets;
  quant::Scheme scheme;
  quant::Observer observer = quant::Observer::minmax;
  quant::ShrinkSearch shrink = {};
  ActOrder act_order = ActOrder::none;
};

// An exception for some linears: 16 bits (kept), or another group size or symmetry.
struct LayerRule {
  std::string pattern;
  bool keep = false;
  std::optional<int64_t> group_size = {};
  std::optional<bool> symmetric = {};
};

// One modifier.
struct Step {
  std::string modifier;  // "AutoRoundModifier"
  // The method that runs the step, never null: the modifier's own method, or a simpler one that is
  // equivalent under its settings.
  const Method* method = nullptr;
  // Empty: the step uses the linears of an earlier or later step (Method::schemes).
  std::vector<SchemeGroup> groups = {};
  // Only for a method without schemes: the linears that it prepares for a later step.
  std::vector<std::string> targets = {};
  std::vector<std::string> ignore = {};
  std::vector<LayerRule> layers = {};  // auto_round style only
  // The settings of the modifier's method; only the method's file knows their type.
  std::any settings = {};
  // Servers keep keys and values in 8-bit floats (E4M3) with one scale per tensor.
  bool fp8_kv_cache = false;

  template <class Settings>
  const Settings& as() const {
    return std::any_cast<const Settings&>(settings);
  }
};

struct Recipe {
  RuleStyle style = RuleStyle::llm_compressor;
  std::vector<Step> steps;  // in the order of the file, at least one
  // Rules apply to the linears of a draft layer as to other linears. A recipe file cannot state
  // this; it must name those linears.
  bool drafts = false;
};

}  // namespace quern::compress
