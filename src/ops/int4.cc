#include "ops/int4.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "base/error.h"
#include "ops/float_type.h"

namespace quern::ops {
namespace {

constexpr size_t kLine = 64;
constexpr size_t kHugePage = 2u << 20;

}  // namespace

AlignedBytes::AlignedBytes(size_t size) {
  const bool large = size >= kHugePage;
  const size_t alignment = large ? kHugePage : kLine, room = size + alignment;
  void* memory =
      large ? ::mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
            : std::malloc(room);
  if (!memory || memory == MAP_FAILED)
    fail(Exit::memory, "no memory for {} bytes of packed weights", size);
  owner_ = std::shared_ptr<void>(memory, [large, room](void* start) {
    large ? void(::munmap(start, room)) : std::free(start);
  });
  const auto address = reinterpret_cast<uintptr_t>(memory);
  data_ = reinterpret_cast<uint8_t*>((address + alignment - 1) / alignment * alignment);
  if (large) ::madvise(data_, size, MADV_HUGEPAGE);
}

Int4Stack::Int4Stack(const std::string& name, int64_t matrices, int64_t rows, int64_t columns,
                     const quant::Scheme& scheme)
    : matrices_(matrices), scheme_(scheme) {
  shape_.rows = rows;
  shape_.columns = columns;
  shape_.group = scheme.group_size < 0 ? columns : scheme.group_size;
  shape_.scale_type = float_type(scheme.scale_dtype);
  shape_.symmetric = scheme.symmetric;
  if (std::string why = kernels::int4_refusal(shape_); !why.empty())
    fail("{}: cannot be multiplied packed: {}", name, why);
  matrix_bytes_ = kernels::int4_bytes(shape_);
  arranged_ = AlignedBytes(matrix_bytes_ * matrices);
}

void Int4Stack::set(int64_t matrix, const quant::QuantWeight& weight) {
  QUERN_CHECK(matrix < matrices_ && weight.rows() == shape_.rows &&
              weight.columns == shape_.columns);
  QUERN_CHECK(weight.scheme == scheme_ && !weight.stacked());
  const Tensor codes = weight.codes.contiguous(), scales = weight.scales.contiguous();
  const Tensor zeros = weight.zeros.defined() ? weight.zeros.contiguous() : Tensor();
  kernels::Int4Source source{codes.const_data_ptr<uint8_t>(), scales.const_data_ptr(),
                             zeros.defined() ? zeros.const_data_ptr<uint8_t>() : nullptr};
  kernels::arrange_int4(shape_, source, arranged_.data() + matrix * matrix_bytes_);
}

Int4Activations Int4Stack::prepare(const float* x, int64_t tokens, int64_t stride) const {
  QUERN_CHECK(stride == shape_.columns);
  Int4Activations ready;
  ready.memory = AlignedBytes(kernels::int4_activation_bytes(shape_, tokens));
  ready.view = kernels::int4_activations(shape_, tokens, ready.memory.data());
  kernels::cpu_kernels().quantize_activations(shape_, x, 0, tokens, ready.view);
  return ready;
}

void Int4Stack::product(const Int4Activations& x, int64_t matrix, int64_t begin, int64_t end,
                        float* out, int64_t out_stride) const {
  // Rows are independent, so a part of the rows is a weight of its own; only its output must lie in
  // a wider one.
  kernels::Int4Shape part = shape_;
  part.rows = end - begin;
  const uint8_t* block = arranged_.data() + matrix * matrix_bytes_ +
                         begin / kernels::kInt4RowBlock * kernels::int4_block_bytes(shape_);
  const int64_t tokens = x.view.tokens;
  if (out_stride == part.rows || tokens == 1) {
    kernels::cpu_kernels().int4_product(part, block, x.view, 0, part.rows, out);
    return;
  }
  thread_local std::vector<float> tile;
  if (static_cast<int64_t>(tile.size()) < tokens * part.rows) tile.resize(tokens * part.rows);
  kernels::cpu_kernels().int4_product(part, block, x.view, 0, part.rows, tile.data());
  for (int64_t t = 0; t < tokens; ++t) {
    std::copy_n(tile.data() + t * part.rows, part.rows, out + t * out_stride);
  }
}

}  // namespace quern::ops
