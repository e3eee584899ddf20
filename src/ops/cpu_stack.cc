#include "ops/cpu_stack.h"

#include "base/error.h"

namespace quern::ops {

void CpuStack::input_gradient(const float*, int64_t, int64_t, int64_t, float*, int64_t,
                              bool) const {
  QUERN_CHECK(differentiable());
}

void CpuStack::learn(const float*, int64_t, const ArrangedInput&, int64_t, int64_t, int64_t) {
  QUERN_CHECK(learns());
}

void CpuStack::skip(int64_t) { QUERN_CHECK(learns()); }

CpuStack& on_cpu(const std::shared_ptr<Stack>& stack) {
  auto* found = dynamic_cast<CpuStack*>(stack.get());
  QUERN_CHECK(found);
  return *found;
}

}  // namespace quern::ops
