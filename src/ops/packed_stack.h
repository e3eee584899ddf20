// Quantized weights in the layout of the kernels that multiply by them, made from QuantWeights when
// a model is loaded, whatever the format on disk.
#pragma once

#include <memory>
#include <string>

#include "ops/cpu_stack.h"
#include "quant/scheme.h"

namespace quern::ops {

class PackedStack : public CpuStack {
 public:
  using CpuStack::CpuStack;

  // Arranges one matrix; its scheme is that of the stack. Threads may set different matrices at the
  // same time.
  virtual void set(int64_t matrix, const quant::QuantWeight& weight) = 0;
};

// Why no kernel multiplies by such matrices; "" if one does.
std::string packed_refusal(const quant::Scheme& scheme, int64_t rows, int64_t columns);

// A stack without matrices yet. Fails with the refusal, naming `name`.
std::shared_ptr<PackedStack> packed_stack(const std::string& name, int64_t matrices, int64_t rows,
                                          int64_t columns, const quant::Scheme& scheme);

}  // namespace quern::ops
