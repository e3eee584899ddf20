// Looks up and checks the tensors of one packed module.
#pragma once

#include <string>

#include "quant/format.h"

namespace quern::quant {

class ModuleTensors {
 public:
  // Keeps references to both.
  ModuleTensors(const std::string& module, const Lookup& lookup)
      : module_(module), lookup_(lookup) {}

  std::string name(std::string_view part) const;
  // Undefined if absent.
  Tensor find(std::string_view part) const { return lookup_(name(part)); }
  // Fails when the tensor is missing or has another dtype or shape; -1: any size.
  Tensor take(std::string_view part, DType dtype, std::initializer_list<int64_t> shape) const;
  // bf16, fp16 or fp32, all finite, contiguous.
  Tensor take_scales(std::string_view part, std::initializer_list<int64_t> shape) const;

  // Groups per row; fails when the group size does not divide the columns.
  int64_t groups(const Scheme& scheme, int64_t columns) const;
  // Fails unless the group of each column is the one that the scheme implies.
  void check_column_groups(std::string_view part, int64_t columns, int64_t groups) const;

 private:
  const std::string& module_;
  const Lookup& lookup_;
};

// int32 [columns]: the group of each column, in order.
Tensor group_of_columns(int64_t columns, int64_t group);

}  // namespace quern::quant
