// What to do with which linear: the steps of a recipe and the rules that choose their linears. A
// recipe comes from a recipe.yaml in llm-compressor's schema (recipe_read.h) or from command-line
// options with AutoRound's meanings (recipe_options.h).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "quant/grid.h"
#include "quant/scheme.h"

namespace quern::compress {

// What a step does to the linears that it gets. All but sparse_gpt quantize if they have schemes.
//   round_to_nearest  also AutoRound of 0 iterations
//   auto_round        rounding and clipping learnt from the block's output
//   awq               moves scale from activations to weights first (or for a later step)
//   gptq              rounds column after column and lets the rest make up for the error
//   sparse_gpt        sets a share of the weights to zero, and lets the rest make up for it
enum class Method { round_to_nearest, auto_round, awq, gptq, sparse_gpt };

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

// AWQ divides what the first pattern names (norms or linears) by a scale for each channel, and
// multiplies the columns of the linears that read it by the same. Patterns are as in targets.
struct AwqMapping {
  std::string smooth_layer;
  std::vector<std::string> balance_layers;
};

// Whether the scale also depends on the weights; `both` tries both.
enum class DuoScaling { off, on, both };

struct AwqSettings {
  std::vector<AwqMapping> mappings = {};  // none: those of the architecture
  DuoScaling duo_scaling = DuoScaling::on;
  int grid = 20;  // scales that are tried
};

// GPTQ and SparseGPT.
struct HessianSettings {
  int64_t block_size = 128;  // columns before the rest of the matrix is brought up to date
  double dampening = 0.01;   // of the mean of the diagonal
};

// SparseGPT.
struct Sparsity {
  double share = 0;           // of the weights that become zero
  int64_t zeros = 0, of = 0;  // "2:4": zeros among so many neighbours; 0: anywhere
  std::vector<std::string> targets = {};
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
  Method method = Method::round_to_nearest;
  // None: the linears that an earlier step chose (AutoRound, GPTQ), or that a later one will (AWQ).
  std::vector<SchemeGroup> groups;
  std::vector<std::string> ignore;
  std::vector<LayerRule> layers = {};  // auto_round style only
  int iters = 200;                     // this and the next two: AutoRound
  std::optional<double> lr = {};       // none: 1 / iters
  int batch_size = 8;
  AwqSettings awq = {};
  HessianSettings hessian = {};
  Sparsity sparsity = {};
  // Servers keep keys and values in 8-bit floats (E4M3) with one scale a tensor.
  bool fp8_kv_cache = false;
};

struct Recipe {
  RuleStyle style = RuleStyle::llm_compressor;
  std::vector<Step> steps;  // in the order of the file, at least one
  // Rules reach the linears of a draft layer as they reach others. No file can say this: a file
  // names them.
  bool drafts = false;
};

}  // namespace quern::compress
