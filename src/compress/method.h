// What a step of a recipe does to its weights. A method is a file with a function that returns its
// row, and a line in methods.cc; no other file names it.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/random.h"
#include "compress/plan.h"
#include "compress/recipe.h"
#include "compress/recipe_options.h"
#include "compress/samples.h"
#include "compress/task.h"
#include "nn/model.h"
#include "quant/config.h"

namespace quern::compress {

struct CompressOptions;

// The weights of a block, and the data that a method may use to change them. A method that needs
// the inputs of its weights sets a tap on them (nn/tap.h, Task::input) and runs the block itself.
struct BlockWork {
  std::string name;  // of the block, "model.language_model.layers.3"
  const nn::Block& block;
  const Sites& sites;  // all of the block, also those that are kept
  const Plan& plan;
  size_t step = 0;  // in the recipe
  // The weights that this step rounds, or prepares for a later step; all are dense.
  std::vector<Task> tasks;
  // Both are empty without calibration.
  const Samples& input;   // the output of the quantized blocks before this one
  const Samples& target;  // the output of the original block for the original input
  const CompressOptions& options;
  PythonRandom& random;
  std::function<void(int iteration, int iterations)> iteration_done;
};

// Mean squared errors of the block's output.
struct Loss {
  double before = 0, after = 0;
  int best_iteration = 0;
};

struct Results {
  // One for each rounded task. A method that prepares weights replaces their stacks instead.
  std::vector<Outcome> outcomes = {};
  std::optional<Loss> loss = {};  // only from methods that use the block's output
  // Kept tensors of Method::changes that got new values, in memory.
  std::vector<std::string> changed = {};
  // Deviations from the recipe: "...experts.7.up_proj: no calibration token reached it; ...".
  std::vector<std::string> warnings = {};
};

// What a method changes in a model besides the linears that are quantized.
struct Changes {
  std::vector<std::string> tensors = {};   // kept ones that get other values
  std::vector<std::string> warnings = {};  // deviations from the recipe
};

// The inputs whose Gram matrices a method needs: of no linear, of linears that another linear
// produces (LinearSite::producer), of all.
enum class GramsOf { none, produced, all };

// The memory of a method while it works on a block.
struct Footprint {
  double bytes_of_weight = 0, bytes_of_group = 0;  // beyond weights, codes and scales
  GramsOf grams = GramsOf::none;
  double bytes_of_activation = 0;  // of each number beyond the inputs and outputs of the block
  int64_t samples_at_once = 1;     // in one pass through the block with gradients
};

// Where the schemes of a method's linears come from.
//   own      its modifier states them
//   earlier  its modifier states them, or it uses those of an earlier step
//   later    its modifier states them, or it prepares the weights of all later steps
//   all      it prepares the weights of all later steps, and states no targets
//   none     it only prepares weights for a later step, and states its own targets
enum class Schemes { own, earlier, later, all, none };

// Whether a modifier of the method may state schemes.
inline bool states_schemes(Schemes schemes) {
  return schemes == Schemes::own || schemes == Schemes::earlier || schemes == Schemes::later;
}

struct Method {
  std::string_view modifier;     // "AutoRoundModifier"
  std::string_view option = {};  // after --method; empty: only a recipe names it
  Schemes schemes = Schemes::own;
  bool needs_data = false;  // BlockWork::input and target
  bool act_order = false;   // its schemes may state the order in which columns are rounded
  // The grid of its codes; none: the grid that readers of the format expect.
  std::optional<quant::Grid> grid = {};

  // Fields of its modifier, in addition to the common ones. `read` runs after the schemes are read
  // and sets Step::settings; `write` adds the settings to the fields of a modifier.
  std::vector<std::string> fields = {};
  void (*read)(const Json& json, Step& step) = nullptr;
  void (*write)(const Step& step, JsonValue& fields) = nullptr;
  // Sets Step::settings from the command line; null for a method without `option`.
  void (*from_options)(const RecipeOptions& options, Step& step) = nullptr;

  // A summary for people: "200 iterations, 8 samples each".
  std::string (*text)(const Step& step) = nullptr;
  // Fills in what quantization_config can state about the method; null: nothing.
  void (*describe)(const Step& step, quant::ConfigDetails& details) = nullptr;
  // Why its kernels cannot work on a linear of this width and final scheme; null: they always can.
  std::string (*refusal)(const Step& step, int64_t columns, const quant::Scheme& scheme) = nullptr;
  // Of a model, for step `index` of the recipe; the plan's verdicts are final. Null: nothing.
  Changes (*changes)(const Step& step, size_t index, const Sites& sites,
                     const Plan& plan) = nullptr;
  // Null: no memory in addition to the codes.
  Footprint (*footprint)(const Step& step, const CompressOptions& options) = nullptr;

  Results (*run)(const Step& step, const BlockWork& work);
};

// Whether the method turns numbers into codes; the other methods prepare weights.
inline bool rounds(const Method& method) {
  return method.schemes == Schemes::own || method.schemes == Schemes::earlier;
}

// Whether step `index` of a recipe rounds a linear with this verdict, or prepares it for a later
// step.
inline bool works_on(const Step& step, size_t index, const Verdict& verdict) {
  if (step.method->schemes == Schemes::none) return verdict.pruned_by == index;
  if (!rounds(*step.method) && step.groups.empty()) return verdict.step > index;
  return verdict.step == index;
}

// All of them, in the order of their modifiers' names.
const std::vector<const Method*>& methods();
// Null if there is none.
const Method* method_of_modifier(std::string_view modifier);
const Method* method_of_option(std::string_view option);

// The values of --method.
std::vector<std::string> method_options();

}  // namespace quern::compress
