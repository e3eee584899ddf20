#include "checkpoint/dtype.h"

#include <array>

#include "base/error.h"

namespace quern::checkpoint {
namespace {

struct Row {
  std::string_view name;
  DType dtype;
};

// In the order of the safetensors library's enumeration (safetensors/src/tensor.rs), which
// determines the order of the tensors in a file.
constexpr std::array kRows = {
    Row{"BOOL", at::kBool},
    Row{"U8", at::kByte},
    Row{"I8", at::kChar},
    Row{"F8_E5M2", at::kFloat8_e5m2},
    Row{"F8_E4M3", at::kFloat8_e4m3fn},
    Row{"F8_E8M0", at::kFloat8_e8m0fnu},
    Row{"I16", at::kShort},
    Row{"U16", at::kUInt16},
    Row{"F16", at::kHalf},
    Row{"BF16", at::kBFloat16},
    Row{"I32", at::kInt},
    Row{"U32", at::kUInt32},
    Row{"F32", at::kFloat},
    Row{"C64", at::kComplexFloat},
    Row{"F64", at::kDouble},
    Row{"I64", at::kLong},
    Row{"U64", at::kUInt64},
};

int find(DType dtype) {
  for (size_t i = 0; i < kRows.size(); ++i)
    if (kRows[i].dtype == dtype) return static_cast<int>(i);
  fail("a tensor of dtype {} cannot be written to a safetensors file; supported dtypes: {}",
       c10::toString(dtype), dtype_names());
}

}  // namespace

std::optional<DType> dtype_of(std::string_view name) {
  for (const Row& row : kRows)
    if (row.name == name) return row.dtype;
  return std::nullopt;
}

std::string_view dtype_name(DType dtype) { return kRows[find(dtype)].name; }

int dtype_rank(DType dtype) { return find(dtype); }

std::string dtype_names() {
  std::string names;
  for (const Row& row : kRows) {
    if (!names.empty()) names += ", ";
    names += row.name;
  }
  return names;
}

}  // namespace quern::checkpoint
