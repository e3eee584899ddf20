// The tensors in which GPTQ's tools and auto-round store a matrix: .qweight int32 [words(in), out],
// packed along the input columns; .qzeros int32 [groups, words(out)], zeros minus one modulo the
// number of codes; .scales fp16 [groups, out], may be negative; and .g_idx int32 [in], the group of
// each column, which auto-round omits.
#pragma once

#include "quant/format.h"

namespace quern::quant::gptq_layout {

inline constexpr std::string_view kParts[] = {"qweight", "scales", "qzeros", "g_idx"};

DType scale_dtype(DType weight_dtype);
std::string refusal(const Scheme& scheme, int64_t rows, int64_t columns);
// All except .g_idx.
std::vector<DiskTensor> planned(const std::string& module, int64_t rows, int64_t columns,
                                const Scheme& scheme);
std::vector<Tensor> to_disk(const QuantWeight& weight);
// .g_idx is optional.
QuantWeight from_disk(const std::string& module, const Scheme& scheme, const Lookup& lookup);

}  // namespace quern::quant::gptq_layout
