// The tensors of one packed module, looked up and checked, as formats read them.
#pragma once

#include <string>

#include "quant/format.h"

namespace quern::quant {

class ModuleTensors {
 public:
  // Both are kept by reference.
  ModuleTensors(const std::string& module, const Lookup& lookup)
      : module_(module), lookup_(lookup) {}

  std::string name(std::string_view part) const;
  // Undefined when there is none.
  Tensor find(std::string_view part) const { return lookup_(name(part)); }
  // Fails when it is missing or of another dtype or shape; -1: any size.
  Tensor take(std::string_view part, DType dtype, std::initializer_list<int64_t> shape) const;
  // bf16, fp16 or fp32, all finite, contiguous.
  Tensor take_scales(std::string_view part, std::initializer_list<int64_t> shape) const;

  // Groups in a row; fails when the group size does not divide it.
  int64_t groups(const Scheme& scheme, int64_t columns) const;
  // The group of each column must be what the scheme implies.
  void check_column_groups(std::string_view part, int64_t columns, int64_t groups) const;

 private:
  const std::string& module_;
  const Lookup& lookup_;
};

// int32 [columns]: the group of each column, in order.
Tensor group_of_columns(int64_t columns, int64_t group);

}  // namespace quern::quant
