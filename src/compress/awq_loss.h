// How well weights round with a scale that AWQ tries; infinite if the scale makes a number
// infinite.
#pragma once

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "compress/awq.h"
#include "compress/samples.h"
#include "compress/smoothing.h"
#include "nn/model.h"

namespace quern::compress {

// Of one linear: the mean squared error of its outputs, from the Gram matrix of its inputs.
class GramLoss {
 public:
  // gram: fp32 [columns, columns], sum of x x^T over `tokens` inputs; its upper triangle counts.
  GramLoss(Tensor matrix, Tensor gram, int64_t tokens, const quant::Scheme& scheme, AwqRules rules);
  // scale: fp32 [columns].
  double operator()(const Tensor& scale) const;

 private:
  Tensor matrix_, gram_;
  int64_t tokens_;
  quant::Scheme scheme_;
  AwqRules rules_;
};

// Null: the linear is kept.
using SchemeOf = std::function<const quant::Scheme*(const nn::LinearSite& site)>;

// Of all readers of a norm: the mean squared difference of the outputs of a block (or of the half
// of it that reads the norm), whose weights change while scales are tried. The end of this object
// restores them.
class OutputLoss {
 public:
  // Runs the block over all samples, here and for each scale. All references must outlive this.
  OutputLoss(const Smoothing& smoothing, const SchemeOf& scheme, AwqRules rules,
             const nn::Block& block, const Samples& input);
  ~OutputLoss();
  OutputLoss(const OutputLoss&) = delete;
  OutputLoss& operator=(const OutputLoss&) = delete;

  // scale: fp32 [channels].
  double operator()(const Tensor& scale) const;
  // The matrices of the readers that are quantized.
  std::vector<std::pair<Tensor, quant::Scheme>> quantized() const;

 private:
  struct Reader {
    nn::Weight weight;
    std::shared_ptr<ops::DenseStack> stack;
    const quant::Scheme* scheme;
  };

  // Null if a number would not be finite.
  std::shared_ptr<ops::Stack> scaled(const Reader& reader, const Tensor& scale) const;

  nn::Norm norm_;
  Tensor factor_;
  std::vector<Reader> readers_;
  AwqRules rules_;
  const nn::Block& block_;
  const Samples& input_;
  std::vector<Tensor> wanted_;  // the outputs of each pass, fp32
};

}  // namespace quern::compress
