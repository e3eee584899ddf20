// A stack of weights while AutoRound tunes it (Cheng et al., "Optimize Weight Rounding via Signed
// Gradient Descent", 2023): for each weight a rounding offset V, for each group two clip factors
// alpha and beta; the product uses the fake-quantized w^ = s * clamp(round(w / s + V), -8, 7).
// Gradients have a closed form (kernels/rounding.h), so that a step needs nothing but
// dL/dw^, tile by tile.
#pragma once

#include <vector>

#include "kernels/kernels.h"
#include "ops/cpu_stack.h"
#include "quant/scheme.h"

namespace quern::ops {

struct RoundingOptions {
  int iterations = 200;
  double lr = 0.005;         // of V; decays linearly to 0
  double minmax_lr = 0.005;  // of alpha and beta
  double momentum = 0;
  bool tune_minmax = true;
};

class RoundingStack : public CpuStack {
 public:
  // matrices: [rows, columns] each, all of one shape, bf16, fp16 or fp32; they are read again at
  // every step and must stay.
  RoundingStack(std::vector<Tensor> matrices, const quant::Scheme& scheme,
                const RoundingOptions& options);

  // w^ of the current state [rows, columns]: bf16 where ops/bf16_matrix.h multiplies, else fp32.
  const Tensor& values(int64_t matrix) const { return values_[matrix]; }

  // The state that the next products use belongs to this iteration, whose gradients come in so many
  // backward passes.
  void begin_iteration(int iteration, int micro_batches);
  // Says, before the backward pass, that this iteration's loss is the smallest so far: step() then
  // keeps the codes and scales of the state before it changes it.
  void keep_this(bool keep) { keep_ = keep; }

  void end_micro_batch() { --remaining_; }

  // The kept state.
  quant::QuantWeight best(int64_t matrix) const;

  bool learns() const override { return true; }
  InputForm input_form() const override;
  ArrangedInput arrange(const float* x, int64_t tokens, int64_t stride) const override;
  void product(const ArrangedInput& x, int64_t matrix, int64_t begin, int64_t end, float* out,
               int64_t out_stride) const override;
  bool differentiable() const override { return true; }
  void input_gradient(const float* dy, int64_t tokens, int64_t dy_stride, int64_t matrix, float* dx,
                      int64_t dx_stride, bool accumulate) const override;
  ArrangedInput arrange_to_learn(const float* x, int64_t tokens, int64_t stride) const override;
  // dL/dw^ is made and consumed tile by tile. Of several micro-batches only the last one steps,
  // with the sum.
  void learn(const float* dy, int64_t dy_stride, const ArrangedInput& x, int64_t matrix,
             int64_t begin, int64_t end) override;
  void skip(int64_t matrix) override;

 private:
  bool in_bf16() const { return values_[0].scalar_type() == at::kBFloat16; }
  // One step of the rows [begin, begin + count) of a matrix with dL/dw^ fp32 [count, columns].
  void step(int64_t matrix, int64_t begin, int64_t count, const float* gradient);
  kernels::RoundingRows state(int64_t matrix, int64_t begin, int64_t count) const;
  kernels::RoundingCodes kept(int64_t matrix, int64_t begin) const;
  // Runs `write`, which fills w^ of some rows in fp32, and stores them.
  template <class Write>
  void set_values(int64_t matrix, int64_t begin, int64_t count, const Write& write);
  void keep_rows(int64_t matrix, int64_t begin, int64_t count) const;
  void change_rows(int64_t matrix, int64_t begin, int64_t count, const float* gradient);

  quant::Scheme scheme_;
  RoundingOptions options_;
  kernels::Rounding shape_;
  std::vector<Tensor> weights_, values_;
  // Per matrix: offsets int16 or int32 [rows, columns]; groups as bytes; codes, scales and zeros of
  // the kept state.
  std::vector<Tensor> offsets_, groups_, codes_, scales_, zeros_, momentum_;
  std::vector<Tensor> gradient_sums_;  // fp32 [rows, columns], only with several micro-batches
  int iteration_ = 0, remaining_ = 1;
  bool keep_ = false;
};

}  // namespace quern::ops
