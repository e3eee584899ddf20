// Moves scale between the channels of activations and the columns of weights, without a change of
// the block's results. AWQ chooses scales with which the weights round better.
#pragma once

#include <string>
#include <vector>

#include "compress/sites.h"

namespace quern::compress {

// A place where scale can move: out of a norm, or out of the rows of a linear, into the columns of
// all linears that read the result. Points into the sites.
struct Smoothing {
  // One of the two. The linear is the producer of its one reader (LinearSite::producer).
  const nn::NormSite* norm = nullptr;
  const nn::LinearSite* linear = nullptr;
  std::vector<const nn::LinearSite*> readers;

  // The module that holds the norm, or the linear.
  std::string name() const;
  int64_t channels() const { return readers[0]->weight.columns(); }
};

// All of these sites, norms first.
std::vector<Smoothing> smoothings_of(const Sites& sites);

// The reader whose input shows the channels: one that reads all tokens, if there is one.
const nn::LinearSite& probe(const Smoothing& smoothing);
// Each once.
std::vector<nn::Weight> weights_that_read(const Sites& sites, const std::string& input);

// The matrices with their columns times `scale`, fp32 [columns], rounded to `dtype`.
std::vector<Tensor> scaled_columns(const ops::DenseStack& stack, const Tensor& scale, DType dtype);

// Moves the scales, one fp32 [channels] for each smoothing, all positive; undefined ones move
// nothing. Every changed number is rounded to the type in which the checkpoint stores it, and the
// readers of a norm are multiplied by what its rounded numbers imply, so that rounding them changes
// no result.
void move_scales(const std::vector<Smoothing>& smoothings, const std::vector<Tensor>& scales);

}  // namespace quern::compress
