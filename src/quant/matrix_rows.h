// The rows of a matrix or of a stack of matrices under one index, whatever their strides.
#pragma once

#include <cstdint>
#include <string>

#include "tensor/tensor.h"

namespace quern::quant {

class MatrixRows {
 public:
  // x: [rows, columns] or [experts, rows, columns], contiguous rows. Fails with `name` otherwise.
  MatrixRows(const Tensor& x, const std::string& name);

  int64_t count() const { return experts_ * rows_; }
  int64_t columns() const { return columns_; }
  const void* operator[](int64_t row) const {
    return data_ + (row / rows_) * expert_bytes_ + (row % rows_) * row_bytes_;
  }
  // Rows in one item of parallel work: about 256 thousand numbers.
  int64_t piece() const;

 private:
  const std::byte* data_;
  int64_t experts_, rows_, columns_, expert_bytes_, row_bytes_;
};

}  // namespace quern::quant
