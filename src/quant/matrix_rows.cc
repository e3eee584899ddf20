#include "quant/matrix_rows.h"

#include <algorithm>

#include "base/error.h"

namespace quern::quant {

MatrixRows::MatrixRows(const Tensor& x, const std::string& name) {
  bool stacked = x.dim() == 3;
  if (x.dim() != 2 && !stacked) {
    fail("{}: shape {} is neither [out, in] nor [experts, out, in]", name, shape_text(x));
  }
  columns_ = x.size(-1);
  rows_ = x.size(-2);
  experts_ = stacked ? x.size(0) : 1;
  if (columns_ > 1 && x.stride(-1) != 1) fail("{}: its rows are not contiguous", name);
  int64_t bytes = x.element_size();
  row_bytes_ = x.stride(-2) * bytes;
  expert_bytes_ = stacked ? x.stride(0) * bytes : 0;
  data_ = static_cast<const std::byte*>(x.const_data_ptr());
}

int64_t MatrixRows::piece() const {
  return std::max<int64_t>(1, (int64_t{1} << 18) / std::max<int64_t>(1, columns_));
}

}  // namespace quern::quant
