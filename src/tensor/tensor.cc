#include "tensor/tensor.h"

#include <ATen/Parallel.h>
#include <fmt/ranges.h>

#include "base/error.h"
#include "tensor/memory.h"

namespace quern {

void prepare_torch() {
  at::set_num_threads(1);
  use_own_memory();
}

std::string shape_text(at::IntArrayRef shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

std::string shape_text(const Tensor& x) { return shape_text(x.sizes()); }

void check_shape(const Tensor& x, std::initializer_list<int64_t> shape, const std::string& name) {
  bool equal = x.dim() == static_cast<int64_t>(shape.size());
  int64_t i = 0;
  for (int64_t wanted : shape) {
    if (!equal) break;
    equal = wanted < 0 || x.size(i) == wanted;
    ++i;
  }
  if (!equal)
    fail("{}: shape {}, expected {}", name, shape_text(x), shape_text(at::IntArrayRef(shape)));
}

}  // namespace quern
