#include "tensor/tensor.h"

#include <ATen/Parallel.h>
#include <fmt/ranges.h>
#include <malloc.h>

#include <limits>

#include "base/error.h"

namespace quern {

void prepare_torch() {
  at::set_num_threads(1);
  // Activations of tens of megabytes come and go with every function. From a mapping of their own
  // the kernel would clear their pages each time; from the heap they keep them. compress gives the
  // heap back after each block.
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
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
    fail("{}: shape {} where {} is expected", name, shape_text(x),
         shape_text(at::IntArrayRef(shape)));
}

}  // namespace quern
