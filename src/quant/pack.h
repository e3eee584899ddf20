// The tensors that a QuantWeight is on disk, in the three layouts that quern writes and reads:
//
//   compressed_tensors, "pack-quantized": <module>.weight_packed int32 [out, ceil(in / 8)], eight
//   codes a word, the first in the lowest bits; .weight_scale [out, groups]; .weight_shape int64
//   [2]; asymmetric: .weight_zero_point int32 [ceil(out / 8), groups], packed along the rows.
//
//   auto_round, "auto_round:auto_gptq": .qweight int32 [in / 8, out], eight input columns a word;
//   .qzeros int32 [groups, out / 8], zeros minus one modulo 16; .scales fp16 [groups, out], may be
//   negative.
//
//   gptq, AutoGPTQ's: as auto_round, and .g_idx int32 [in], the group of each column.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "quant/scheme.h"
#include "tensor/tensor.h"

namespace quern::quant {

enum class Format { compressed_tensors, auto_round, gptq };

// As users write it after --format: compressed-tensors, auto_gptq, gptq.
std::string_view format_name(Format format);

// What scales are stored in: the weight's own dtype, or fp16.
DType scale_dtype(Format format, DType weight_dtype);

struct PlannedTensor {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;
};

// Names, dtypes and shapes of what to_disk() gives for one matrix, in the same order. Fails, naming
// the module, when the format cannot hold such a matrix.
std::vector<PlannedTensor> planned(const std::string& module, int64_t rows, int64_t columns,
                                   const Scheme& scheme, Format format);

// Names of tensors that other programs write beside those of planned(): the group of each column.
// from_disk() fails if they say something that the scheme does not imply.
std::vector<std::string> implied(const std::string& module, Format format);

using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

// One matrix; for a stack, one expert after the other. Tensors may share the weight's memory.
NamedTensors to_disk(const std::string& module, const QuantWeight& weight, Format format);

// Looks a tensor up by its full name; undefined when there is none.
using Lookup = std::function<Tensor(const std::string& name)>;

// The inverse. `scheme` is what quantization_config says of the module; scales keep the dtype that
// they have on disk. Fails, naming the tensor, on a missing one, a wrong dtype or shape, a scale
// that is not finite, and on columns that are not in the order of their groups.
QuantWeight from_disk(const std::string& module, const Scheme& scheme, Format format,
                      const Lookup& lookup);

}  // namespace quern::quant
