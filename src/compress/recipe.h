// What to do with which linear: the steps of a recipe and the rules that choose their linears. A
// recipe comes from a recipe.yaml in llm-compressor's schema (recipe_read.h) or from command-line
// options with AutoRound's meanings (recipe_options.h).
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

// Whose meaning the rules of a recipe have.
//   llm_compressor  a plain entry is a full name or a class, "re:" is a Python regular expression
//                   that matches from the start of the name;
//   auto_round      an ignore entry is a full name, "re:" as above, or else a substring (one that
//                   ends in a digit gets a dot, so that layers.1 is not layers.10); layer rules are
//                   full names or expressions that are searched for; linears whose rows or columns
//                   are no multiple of 32 are kept.
enum class RuleStyle { llm_compressor, auto_round };

// In which order GPTQ rounds the columns of a matrix: theirs, or that of their activations' size.
enum class ActOrder { none, by_activation };

// A scheme for the linears that its targets name.
struct SchemeGroup {
  std::string name;  // "group_0"
  std::vector<std::string> targets;
  quant::Scheme scheme;
  quant::Observer observer = quant::Observer::minmax;
  quant::ShrinkSearch shrink = {};
  ActOrder act_order = ActOrder::none;
};

// A different treatment of some linears: 16 bits (kept), or another group size or symmetry.
struct LayerRule {
  std::string pattern;
  bool keep = false;
  std::optional<int64_t> group_size = {};
  std::optional<bool> symmetric = {};
};

// One modifier.
struct Step {
  std::string modifier;  // "AutoRoundModifier"
  // What carries it out, never null: that of the modifier's row, or a simpler one that its settings
  // come to.
  const Method* method = nullptr;
  // None: the linears that an earlier step chose, or that a later one will (Method::schemes).
  std::vector<SchemeGroup> groups = {};
  // Of a method without schemes: the linears that it prepares for a later step.
  std::vector<std::string> targets = {};
  std::vector<std::string> ignore = {};
  std::vector<LayerRule> layers = {};  // auto_round style only
  // Of the modifier's method, whose file alone knows their type.
  std::any settings = {};
  // Servers keep keys and values in 8-bit floats (E4M3) with one scale a tensor.
  bool fp8_kv_cache = false;

  template <class Settings>
  const Settings& as() const {
    return std::any_cast<const Settings&>(settings);
  }
};

struct Recipe {
  RuleStyle style = RuleStyle::llm_compressor;
  std::vector<Step> steps;  // in the order of the file, at least one
  // Rules reach the linears of a draft layer as they reach others. No file can say this: a file
  // names them.
  bool drafts = false;
};

}  // namespace quern::compress
