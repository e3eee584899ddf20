// A stack of weights that AutoRound tunes (Cheng et al., "Optimize Weight Rounding via Signed
// Gradient Descent", 2023). Each weight has a rounding offset V, each group two clip factors alpha
// and beta; the product uses the fake-quantized w^ = s * clamp(round(w / s + V), -8, 7). Gradients
// have a closed form (kernels/rounding.h), so a step needs only dL/dw^, tile by tile.
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
  // matrices: [rows, columns] each, of equal shape, bf16, fp16 or fp32; every step reads them
  // again, so they must not change.
  RoundingStack(std::vector<Tensor> matrices, const quant::Scheme& scheme,
                const RoundingOptions& options);

  // The first matrix that contains NaN or infinity, or needs a scale outside the range of the
  // scale's dtype. If there is one, the stack must not be used.
  std::optional<int64_t> not_finite() const { return not_finite_; }

  // The state of the next products belongs to this iteration, whose gradients arrive in
  // `micro_batches` backward passes.
  void begin_iteration(int iteration, int micro_batches);
  // Called before the backward pass if this iteration's loss is the smallest so far: step() then
  // saves the codes and scales before it changes the state.
  void keep_this(bool keep) { keep_ = keep; }

  void end_micro_batch() { --remaining_; }

  // The kept state.
  quant::QuantWeight best(int64_t matrix) const;

  void skip(int64_t matrix) override;

 private:
  // With several micro-batches, only the last one steps, using the sum of their gradients.
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
