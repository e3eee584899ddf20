#include "ops/int4_stack.h"

#include <algorithm>

#include "base/error.h"
#include "quant/float_type.h"

namespace quern::ops {
namespace {

kernels::Int4Shape shape_of(const quant::Scheme& scheme, int64_t rows, int64_t columns) {
  return {.rows = rows,
          .columns = columns,
          .group = scheme.group_size < 0 ? columns : scheme.group_size,
          .scale_type = quant::float_type(scheme.scale_dtype),
          .symmetric = scheme.symmetric};
}

}  // namespace

std::string Int4Stack::refusal(const quant::Scheme& scheme, int64_t rows, int64_t columns) {
  return kernels::int4_refusal(shape_of(scheme, rows, columns));
}

Int4Stack::Int4Stack(int64_t matrices, int64_t rows, int64_t columns, const quant::Scheme& scheme)
    : PackedStack(matrices, rows, columns),
      scheme_(scheme),
      shape_(shape_of(scheme, rows, columns)),
      matrix_bytes_(kernels::int4_bytes(shape_)),
      arranged_(matrix_bytes_ * matrices) {
  QUERN_CHECK(kernels::int4_refusal(shape_).empty());
}

void Int4Stack::set(int64_t matrix, const quant::QuantWeight& weight) {
  QUERN_CHECK(matrix < matrices() && weight.rows() == rows() && weight.columns == columns());
  QUERN_CHECK(weight.scheme == scheme_ && !weight.stacked());
  const Tensor codes = weight.codes.contiguous(), scales = weight.scales.contiguous();
  const Tensor zeros = weight.zeros.defined() ? weight.zeros.contiguous() : Tensor();
  kernels::Int4Source source{codes.const_data_ptr<uint8_t>(), scales.const_data_ptr(),
                             zeros.defined() ? zeros.const_data_ptr<uint8_t>() : nullptr};
  kernels::arrange_int4(shape_, source, arranged_.data() + matrix * matrix_bytes_);
}

InputForm Int4Stack::input_form() const {
  // If pieces fill the groups exactly, all groups are cut alike.
  const bool whole = shape_.group % kernels::Int4Shape::kPiece == 0;
  return {InputForm::Kind::int16, whole ? kernels::Int4Shape::kPiece : shape_.group};
}

ArrangedInput Int4Stack::arrange(const float* x, int64_t tokens, int64_t stride) const {
  QUERN_CHECK(stride == columns());
  ArrangedInput input{x, tokens, stride,
                      AlignedBytes(kernels::int4_activation_bytes(shape_, tokens))};
  kernels::cpu_kernels().quantize_activations(
      shape_, x, 0, tokens, kernels::int4_activations(shape_, tokens, input.memory.data()));
  return input;
}

void Int4Stack::product(const ArrangedInput& x, int64_t matrix, int64_t begin, int64_t end,
                        float* out, int64_t out_stride) const {
  // Rows are independent, so a range of rows is a weight too; only the stride of its output is
  // wider.
  kernels::Int4Shape part = shape_;
  part.rows = end - begin;
  const uint8_t* block = arranged_.data() + matrix * matrix_bytes_ +
                         begin / kernels::kInt4RowBlock * kernels::int4_block_bytes(shape_);
  const kernels::Int4Activations view =
      kernels::int4_activations(shape_, x.tokens, x.memory.data());
  if (out_stride == part.rows || x.tokens == 1) {
    kernels::cpu_kernels().int4_product(part, block, view, 0, part.rows, out);
    return;
  }
  thread_local std::vector<float> tile;
  if (static_cast<int64_t>(tile.size()) < x.tokens * part.rows) tile.resize(x.tokens * part.rows);
  kernels::cpu_kernels().int4_product(part, block, view, 0, part.rows, tile.data());
  for (int64_t t = 0; t < x.tokens; ++t) {
    std::copy_n(tile.data() + t * part.rows, part.rows, out + t * out_stride);
  }
}

}  // namespace quern::ops
