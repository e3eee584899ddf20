#include "quant/scheme.h"

#include "base/error.h"

namespace quern::quant {

int64_t Scheme::groups(int64_t columns) const {
  if (group_size == -1) return 1;
  QUERN_CHECK(group_size > 0);
  if (columns % group_size != 0) {
    fail("{} input columns do not divide into groups of {}", columns, group_size);
  }
  return columns / group_size;
}

std::string Scheme::text() const {
  std::string grouping =
      group_size == -1 ? "one scale per row" : fmt::format("groups of {}", group_size);
  return fmt::format("{} {}, {}", element->name, symmetric ? "symmetric" : "asymmetric", grouping);
}

QuantWeight QuantWeight::expert(int64_t index) const {
  QUERN_CHECK(stacked());
  return {.scheme = scheme,
          .columns = columns,
          .codes = codes[index],
          .scales = scales[index],
          .zeros = zeros.defined() ? zeros[index] : Tensor()};
}

}  // namespace quern::quant
