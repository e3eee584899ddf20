// A stack of weights while AutoRound tunes it (Cheng et al., "Optimize Weight Rounding via Signed
// Gradient Descent", 2023): for each weight a rounding offset V, for each group two clip factors
// alpha and beta; the product uses the fake-quantized w^ = s * clamp(round(w / s + V), -8, 7).
// Gradients have a closed form (kernels/rounding.h), so that a step needs nothing but
// dL/dw^, tile by tile.
#pragma once

#include <optional>
#include <vector>

#include "kernels/kernels.h"
#include "ops/learning_stack.h"
#include "quant/scheme.h"

namespace quern::ops {

struct RoundingOptions {
  int iterations = 200;
  double lr = 0.005;         // of V; decays linearly to 0
  double minmax_lr = 0.005;  // of alpha and beta
  double momentum = 0;
  bool tune_minmax = true;
};

class RoundingStack : public LearningStack {
 public:
  // matrices: [rows, columns] each, all of one shape, bf16, fp16 or fp32; they are read again at
  // every step and must stay.
  RoundingStack(std::vector<Tensor> matrices, const quant::Scheme& scheme,
                const RoundingOptions& options);

  // The first matrix that holds NaN or infinity, or weights whose scale the scale's type cannot
  // hold; nothing of it may be used.
  std::optional<int64_t> not_finite() const { return not_finite_; }

  // The state that the next products use belongs to this iteration, whose gradients come in so many
  // backward passes.
  void begin_iteration(int iteration, int micro_batches);
  // Says, before the backward pass, that this iteration's loss is the smallest so far: step() then
  // keeps the codes and scales of the state before it changes it.
  void keep_this(bool keep) { keep_ = keep; }

  void end_micro_batch() { --remaining_; }

  // The kept state.
  quant::QuantWeight best(int64_t matrix) const;

  void skip(int64_t matrix) override;

 private:
  // Of several micro-batches only the last one steps, with the sum.
  void step(int64_t matrix, int64_t begin, int64_t count, const float* gradient) override;
  kernels::RoundingRows state(int64_t matrix, int64_t begin, int64_t count) const;
  kernels::RoundingCodes kept(int64_t matrix, int64_t begin) const;
  void keep_rows(int64_t matrix, int64_t begin, int64_t count) const;
  void change_rows(int64_t matrix, int64_t begin, int64_t count, const float* gradient);

  quant::Scheme scheme_;
  RoundingOptions options_;
  kernels::Rounding shape_;
  std::vector<Tensor> weights_;
  // Per matrix: offsets int16 or int32 [rows, columns]; groups as bytes; codes, scales and zeros of
  // the kept state.
  std::vector<Tensor> offsets_, groups_, codes_, scales_, zeros_, momentum_;
  std::vector<Tensor> gradient_sums_;  // fp32 [rows, columns], only with several micro-batches
  int iteration_ = 0, remaining_ = 1;
  bool keep_ = false;
  std::optional<int64_t> not_finite_;
};

}  // namespace quern::ops
