// The search for the scales of AWQ: tries some scales and keeps the one with the smallest loss
// (awq_loss.h). Formulas and order after llm-compressor's AWQModifier.
#pragma once

#include <functional>
#include <utility>
#include <vector>

#include "compress/awq.h"
#include "quant/scheme.h"
#include "tensor/tensor.h"

namespace quern::compress {

// A scale: x^ratio / w^(1 - ratio) of each channel with duo, otherwise x^ratio, where x is the mean
// size of the channel's activations and w that of its weights.
struct AwqTry {
  double ratio;
  bool duo;
};

std::vector<AwqTry> awq_tries(const AwqSettings& settings);

// fp32 [channels], positive; the geometric mean of its extremes is 1. `w` is only needed for duo.
Tensor awq_scale(const AwqTry& one, const std::vector<double>& x, const std::vector<double>& w);

// The mean size of each column over the rows of all matrices [rows, channels], relative to the
// largest number of its group.
std::vector<double> relative_sizes(const std::vector<std::pair<Tensor, quant::Scheme>>& matrices);

struct AwqResult {
  Tensor scale;                // undefined if no loss was finite
  std::vector<double> losses;  // of each try
  size_t best = 0;
};

// loss: of a scale.
AwqResult awq_search(const std::vector<AwqTry>& tries, const std::vector<double>& x,
                     const std::vector<double>& w,
                     const std::function<double(const Tensor& scale)>& loss);

}  // namespace quern::compress
