// The weights of a place in the model, and the verdict of each.
#pragma once

#include <string>
#include <vector>

#include "compress/plan.h"
#include "nn/weights.h"
#include "quant/record.h"

namespace quern::compress {

// All matrices of a stack have one verdict, because vLLM loads the experts of a block as one.
struct Task {
  nn::Weight weight;
  std::vector<Tensor> originals;  // its matrices, as stored in the checkpoint
  quant::Scheme scheme;
  const Verdict* verdict;            // of the plan, which outlives the task
  std::string input;                 // LinearSite::input: tasks of one input share its statistics
  std::string source;                // the tensor that holds it, or one of them
  std::vector<std::string> modules;  // of each matrix
};

// The result of a step for one weight: each of its matrices, quantized.
struct Outcome {
  Task task;
  std::vector<quant::QuantWeight> matrices;
  quant::Bound bound;  // for each matrix; `verify` checks it
};

int64_t matrices_of(const std::vector<Task>& tasks);
std::vector<nn::Weight> weights_of(const std::vector<Task>& tasks);

// The weights that the plan quantizes among these sites, each once, in the order of the sites.
std::vector<Task> tasks_of(const std::vector<nn::LinearSite>& sites, const Plan& plan);

}  // namespace quern::compress
