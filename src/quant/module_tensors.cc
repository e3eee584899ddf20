#include "quant/module_tensors.h"

#include <vector>

#include "base/error.h"
#include "quant/rows.h"

namespace quern::quant {

std::string ModuleTensors::name(std::string_view part) const {
  return fmt::format("{}.{}", module_, part);
}

Tensor ModuleTensors::take(std::string_view part, DType dtype,
                           std::initializer_list<int64_t> shape) const {
  Tensor x = find(part);
  if (!x.defined()) fail("{} is missing", name(part));
  if (x.scalar_type() != dtype) {
    fail("{} is {}, expected {}", name(part), at::toString(x.scalar_type()), at::toString(dtype));
  }
  check_shape(x, shape, name(part));
  return x;
}

Tensor ModuleTensors::take_scales(std::string_view part,
                                  std::initializer_list<int64_t> shape) const {
  Tensor x = find(part);
  if (!x.defined()) fail("{} is missing", name(part));
  DType dtype = x.scalar_type();
  if (dtype != at::kBFloat16 && dtype != at::kHalf && dtype != at::kFloat) {
    fail("{} is {}, expected a floating-point type of 16 or 32 bits", name(part),
         at::toString(dtype));
  }
  check_shape(x, shape, name(part));
  Tensor scales = x.contiguous();
  std::vector<float> numbers(scales.numel());
  if (!widen(scales.const_data_ptr(), dtype, scales.numel(), numbers.data())) {
    fail("{} contains NaN or infinity", name(part));
  }
  return scales;
}

int64_t ModuleTensors::groups(const Scheme& scheme, int64_t columns) const {
  if (scheme.group_size != -1 && columns % scheme.group_size != 0) {
    fail("{}: {} input columns do not divide into groups of {}", module_, columns,
         scheme.group_size);
  }
  return scheme.groups(columns);
}

void ModuleTensors::check_column_groups(std::string_view part, int64_t columns,
                                        int64_t groups) const {
  const Tensor given = find(part);
  if (!given.defined()) return;
  check_shape(given, {columns}, name(part));
  if (!at::equal(given.to(at::kInt), group_of_columns(columns, columns / groups))) {
    fail(
        "{}: the columns are not in the order of their groups (activation ordering); quern reads "
        "weights that were quantized with desc_act false",
        module_);
  }
}

Tensor group_of_columns(int64_t columns, int64_t group) {
  return at::arange(columns, at::kInt).floor_divide_(group);
}

}  // namespace quern::quant
