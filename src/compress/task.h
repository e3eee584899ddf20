// The weights of a place in the model, with what is to become of each.
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
  std::vector<Tensor> originals;  // its matrices, as the checkpoint holds them
  quant::Scheme scheme;
  const Verdict* verdict;            // of the plan, which outlives the task
  std::string input;                 // LinearSite::input: tasks of one input share its statistics
  std::string source;                // the tensor that holds it, or one of them
  std::vector<std::string> modules;  // of each matrix
};

// What a step of the recipe made of a weight: each of its matrices, quantized.
struct Outcome {
  Task task;
  std::vector<quant::QuantWeight> matrices;
  quant::Bound bound;  // of each, for `verify`
};

int64_t matrices_of(const std::vector<Task>& tasks);

// The weights of these sites that the plan quantizes, each once, in the order of the sites.
std::vector<Task> tasks_of(const std::vector<nn::LinearSite>& sites, const Plan& plan);

}  // namespace quern::compress
