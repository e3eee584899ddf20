// What a step of a recipe does to the weights that it gets. A method is a file with a function that
// returns its row, and a line in methods.cc; nobody else knows it by name.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/random.h"
#include "compress/recipe.h"
#include "compress/recipe_options.h"
#include "compress/samples.h"
#include "compress/task.h"
#include "nn/model.h"
#include "quant/config.h"

namespace quern::compress {

struct CompressOptions;

// Weights of a block, and what a method may look at while it changes them. A method that needs the
// inputs of its weights sets a tap on them (nn/tap.h, Task::input) and runs the block itself.
struct BlockWork {
  std::string name;  // of the block, "model.language_model.layers.3"
  const nn::Block& block;
  // Of one step, all of them dense: those that it rounds, or that it prepares for a later step.
  std::vector<Task> tasks;
  // Without calibration both are empty.
  const Samples& input;   // what the quantized blocks before this one give
  const Samples& target;  // what the original block makes of the original input
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
  // Of every task that was rounded. A method that prepares weights replaces their stacks instead.
  std::vector<Outcome> outcomes;
  std::optional<Loss> loss = {};  // of methods that look at the block's output
  // What did not go as the recipe says: "...experts.7.up_proj: ...".
  std::vector<std::string> warnings = {};
};

// What a method holds in memory while it works on a block.
struct Footprint {
  double bytes_of_weight = 0, bytes_of_group = 0;  // beside the weights, their codes and scales
  bool grams = false;                              // a Gram matrix of each input
  int64_t samples_at_once = 1;                     // that go through the block with gradients
};

// Where the schemes of a method's linears come from.
//   own      its modifier states them
//   earlier  its modifier states them, or it goes on with those of a step before it
//   later    its modifier states them, or it prepares the weights for a step after it
//   none     it only prepares weights for a step after it, and has targets of its own
enum class Schemes { own, earlier, later, none };

struct Method {
  std::string_view modifier;     // "AutoRoundModifier"
  std::string_view option = {};  // after --method; empty: only a recipe names it
  Schemes schemes = Schemes::own;
  bool needs_data = false;  // input and target of BlockWork
  bool act_order = false;   // its schemes may say in which order columns are rounded
  // Its codes lie on this grid; none: on the one that readers of the format take for granted.
  std::optional<quant::Grid> grid = {};

  // Fields of its modifier, beside those of all. `read` is called after the schemes were read and
  // sets Step::settings; `write` adds them to the fields again.
  std::vector<std::string> fields = {};
  void (*read)(const Json& json, Step& step) = nullptr;
  void (*write)(const Step& step, JsonValue& fields) = nullptr;
  // The same from the command line; null for a method without `option`.
  void (*from_options)(const RecipeOptions& options, Step& step) = nullptr;

  // What it will do, for people: "200 iterations, 8 samples each".
  std::string (*text)(const Step& step) = nullptr;
  // What quantization_config has a place for; null: nothing.
  void (*describe)(const Step& step, quant::ConfigDetails& details) = nullptr;
  // Why the kernels it needs cannot work on such a linear, which will have this scheme; null: they
  // always can.
  std::string (*refusal)(const Step& step, int64_t columns, const quant::Scheme& scheme) = nullptr;
  // Null: nothing beside the codes.
  Footprint (*footprint)(const Step& step, const CompressOptions& options) = nullptr;

  // Null: this version reads and plans the method, and cannot carry it out.
  Results (*run)(const Step& step, const BlockWork& work) = nullptr;
};

// Methods that turn numbers into codes; others prepare the weights for them.
inline bool rounds(const Method& method) {
  return method.schemes == Schemes::own || method.schemes == Schemes::earlier;
}

// All of them, in the order of their modifiers' names.
const std::vector<const Method*>& methods();
// Null if there is none.
const Method* method_of_modifier(std::string_view modifier);
const Method* method_of_option(std::string_view option);

// What --method takes.
std::vector<std::string> method_options();

}  // namespace quern::compress
