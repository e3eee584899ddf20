#include "quant/rows.h"

#include <algorithm>
#include <limits>

#include "kernels/kernels.h"
#include "quant/float_type.h"

namespace quern::quant {
namespace {

const kernels::RowKernels& rows() { return kernels::cpu_kernels().rows; }

}  // namespace

float round_to(DType dtype, float x) { return kernels::round_to(float_type(dtype), x); }

float epsilon(DType dtype) {
  switch (float_type(dtype)) {
    case kernels::FloatType::bf16:
      return 0x1p-7f;
    case kernels::FloatType::fp16:
      return 0x1p-10f;
    case kernels::FloatType::fp32:
      break;
  }
  return std::numeric_limits<float>::epsilon();
}

bool widen(const void* x, DType dtype, int64_t count, float* out) {
  switch (float_type(dtype)) {
    case kernels::FloatType::bf16:
      kernels::cpu_kernels().floats_from_bf16(static_cast<const uint16_t*>(x), count, out);
      break;
    case kernels::FloatType::fp16:
      kernels::cpu_kernels().floats_from_fp16(static_cast<const uint16_t*>(x), count, out);
      break;
    case kernels::FloatType::fp32:
      std::copy_n(static_cast<const float*>(x), count, out);
  }
  return rows().all_finite(out, count);
}

void narrow(const float* x, int64_t count, DType dtype, void* out) {
  rows().narrow(float_type(dtype), x, count, out);
}

Range range_of(const float* x, int64_t count) { return rows().range(x, count); }

SquareSums square_sums(const float* x, const float* y, int64_t count) {
  return rows().square_sums(x, y, count);
}

void encode_integers(const Element& element, const float* x, int64_t count,
                     const Encoding& encoding, uint8_t* codes) {
  rows().encode({.scale = encoding.scale,
                 .zero = encoding.zero,
                 .middle = element.middle(),
                 .add_zero_first = encoding.add_zero_first,
                 .quotient_type = float_type(encoding.quotient_dtype)},
                x, count, codes);
}

void decode_integers(const uint8_t* codes, int64_t count, float scale, int zero, float* out) {
  rows().decode(codes, count, scale, zero, out);
}

void pack_nibbles(const uint8_t* codes, int64_t count, uint8_t* bytes) {
  rows().pack_nibbles(codes, count, bytes);
}

void unpack_nibbles(const uint8_t* bytes, int64_t count, uint8_t* codes) {
  rows().unpack_nibbles(bytes, count, codes);
}

}  // namespace quern::quant
