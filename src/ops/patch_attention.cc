#include "ops/patch_attention.h"

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "base/threads.h"
#include "ops/float_matrix.h"

namespace quern::ops {
namespace {

constexpr int64_t kQueryTile = 128;

// One head, as a matrix [patches, width].
kernels::FloatMatrix head_of(const Tensor& x, int64_t first, int64_t head,
                             bool transposed = false) {
  return {x.const_data_ptr<float>() + first * x.stride(0) + head * x.stride(1), x.stride(0),
          transposed};
}

void attend_tile(const Tensor& q, const Tensor& k, const Tensor& v, int64_t head, int64_t first,
                 int64_t queries, double scale, Tensor& output) {
  const int64_t patches = q.size(0), width = q.size(2);
  at::NoGradGuard no_grad;
  std::vector<float> memory(queries * patches);
  float_product({queries, patches, width, head_of(q, first, head),
                 head_of(k, 0, head, /*transposed=*/true), memory.data(), patches});
  Tensor scores = at::from_blob(memory.data(), {queries, patches}, at::kFloat);
  scores.mul_(scale);
  at::softmax_out(scores, scores, -1);
  float* out = output.data_ptr<float>() + first * output.stride(0) + head * output.stride(1);
  float_product({queries,
                 width,
                 patches,
                 {memory.data(), patches},
                 head_of(v, 0, head),
                 out,
                 output.stride(0)});
}

}  // namespace

Tensor patch_attention(const Tensor& q, const Tensor& k, const Tensor& v, double scale) {
  QUERN_CHECK(q.dim() == 3 && q.sizes() == k.sizes() && q.sizes() == v.sizes());
  QUERN_CHECK(q.stride(2) == 1 && k.stride(2) == 1 && v.stride(2) == 1);
  Tensor output = at::empty(q.sizes(), at::kFloat);
  const int64_t patches = q.size(0), heads = q.size(1);
  const int64_t tiles = (patches + kQueryTile - 1) / kQueryTile;
  parallel_for(tiles * heads, [&](int64_t item) {
    const int64_t first = item / heads * kQueryTile;
    attend_tile(q, k, v, item % heads, first, std::min(kQueryTile, patches - first), scale, output);
  });
  return output;
}

}  // namespace quern::ops
