#include "ops/attention.h"

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "base/threads.h"
#include "tensor/blas.h"

namespace quern::ops {
namespace {

// Queries that are handled together: their scores against all keys are the largest thing in memory.
constexpr int64_t kQueryTile = 128;

// One head of one sequence, as strided matrices [tokens, width].
struct HeadView {
  const float* q;
  const float* k;
  const float* v;
  int64_t q_stride, kv_stride, width;
};

// Softmax of the scores of queries [begin, end), which come after `past` keys of their own
// sequence, into `probabilities` [end - begin, past + end]; zero where a key is in a query's
// future.
void probabilities_of(const HeadView& head, int64_t begin, int64_t end, int64_t past, double scale,
                      float* probabilities) {
  const int64_t keys = past + end, queries = end - begin;
  sgemm(queries, keys, head.width, {head.q + begin * head.q_stride, head.q_stride},
        {head.k, head.kv_stride, Transpose::yes}, probabilities, keys);
  for (int64_t i = 0; i < queries; ++i) {
    float* row = probabilities + i * keys;
    std::fill(row + past + begin + i + 1, row + keys, -std::numeric_limits<float>::infinity());
  }
  Tensor scores = at::from_blob(probabilities, {queries, keys}, at::kFloat);
  scores.mul_(scale);
  at::softmax_out(scores, scores, -1);
}

struct Shapes {
  int64_t tokens, heads, kv_heads, width, group;
};

Shapes shapes_of(const Tensor& q, const Tensor& k, const Tensor& v) {
  QUERN_CHECK(q.dim() == 3 && k.dim() == 3 && k.sizes() == v.sizes() && q.size(2) == k.size(2));
  QUERN_CHECK(q.size(1) % k.size(1) == 0);
  return {q.size(0), q.size(1), k.size(1), q.size(2), q.size(1) / k.size(1)};
}

HeadView head_view(const Tensor& q, const Tensor& k, const Tensor& v, int64_t first_token,
                   int64_t head, int64_t group) {
  return {q.const_data_ptr<float>() + first_token * q.stride(0) + head * q.stride(1),
          k.const_data_ptr<float>() + first_token * k.stride(0) + head / group * k.stride(1),
          v.const_data_ptr<float>() + first_token * v.stride(0) + head / group * v.stride(1),
          q.stride(0),
          k.stride(0),
          q.size(2)};
}

struct QueryTile {
  int64_t first_token, past, begin, end, head;
};

void attend_tile(const Tensor& q, const Tensor& k, const Tensor& v, const QueryTile& tile,
                 int64_t group, double scale, Tensor& output) {
  HeadView head = head_view(q, k, v, 0, tile.head, group);
  head.q += tile.first_token * head.q_stride;
  head.k += tile.first_token * head.kv_stride;
  head.v += tile.first_token * head.kv_stride;
  const int64_t keys = tile.past + tile.end;
  at::NoGradGuard no_grad;
  std::vector<float> probabilities((tile.end - tile.begin) * keys);
  probabilities_of(head, tile.begin, tile.end, tile.past, scale, probabilities.data());
  float* out = output.data_ptr<float>() + (tile.first_token + tile.begin) * output.stride(0) +
               tile.head * output.stride(1);
  sgemm(tile.end - tile.begin, head.width, keys, {probabilities.data(), keys},
        {head.v, head.kv_stride}, out, output.stride(0));
}

Tensor attention_forward(const Tensor& q, const Tensor& k, const Tensor& v, const Bounds& bounds,
                         double scale) {
  const Shapes shape = shapes_of(q, k, v);
  Tensor output = at::empty({shape.tokens, shape.heads, shape.width}, at::kFloat);
  std::vector<QueryTile> tiles;
  for (size_t s = 0; s + 1 < bounds.size(); ++s) {
    const int64_t length = bounds[s + 1] - bounds[s];
    for (int64_t begin = 0; begin < length; begin += kQueryTile) {
      for (int64_t head = 0; head < shape.heads; ++head) {
        tiles.push_back({bounds[s], 0, begin, std::min(length, begin + kQueryTile), head});
      }
    }
  }
  parallel_for(static_cast<int64_t>(tiles.size()),
               [&](int64_t i) { attend_tile(q, k, v, tiles[i], shape.group, scale, output); });
  return output;
}

// For one key/value head of one sequence: gradients of its q heads, of k and of v.
void attention_backward_head(const Tensor& q, const Tensor& k, const Tensor& v,
                             const Tensor& output, const Tensor& dy, int64_t first, int64_t length,
                             int64_t kv_head, int64_t group, double scale, Tensor& dq, Tensor& dk,
                             Tensor& dv) {
  const int64_t width = q.size(2), stride = dk.stride(0);
  float* dk_head = dk.data_ptr<float>() + first * stride + kv_head * width;
  float* dv_head = dv.data_ptr<float>() + first * stride + kv_head * width;
  at::NoGradGuard no_grad;
  std::vector<float> p(kQueryTile * length), ds(kQueryTile * length);
  for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    const HeadView view = head_view(q, k, v, first, head, group);
    const int64_t out_stride = output.stride(0),
                  offset = first * out_stride + head * output.stride(1);
    const float* y = output.const_data_ptr<float>() + offset;
    const float* g = dy.const_data_ptr<float>() + offset;
    for (int64_t begin = 0; begin < length; begin += kQueryTile) {
      const int64_t end = std::min(length, begin + kQueryTile), rows = end - begin, keys = end;
      probabilities_of(view, begin, end, 0, scale, p.data());
      const MatrixView dy_tile{g + begin * out_stride, out_stride};
      sgemm(keys, width, rows, {p.data(), keys, Transpose::yes}, dy_tile, dv_head, stride,
            /*accumulate=*/true);
      sgemm(rows, keys, width, dy_tile, {view.v, view.kv_stride, Transpose::yes}, ds.data(), keys);
      for (int64_t i = 0; i < rows; ++i) {
        // Softmax: ds = p * (dp - sum(p * dp)), and sum(p * dp) = <dy, y>.
        float dot = 0;
        for (int64_t c = 0; c < width; ++c)
          dot += g[(begin + i) * out_stride + c] * y[(begin + i) * out_stride + c];
        float* row = ds.data() + i * keys;
        const float* probability = p.data() + i * keys;
        for (int64_t j = 0; j < keys; ++j)
          row[j] = probability[j] * (row[j] - dot) * static_cast<float>(scale);
      }
      float* dq_tile = dq.data_ptr<float>() + (first + begin) * dq.stride(0) + head * dq.stride(1);
      sgemm(rows, width, keys, {ds.data(), keys}, {view.k, view.kv_stride}, dq_tile, dq.stride(0));
      sgemm(keys, width, rows, {ds.data(), keys, Transpose::yes},
            {view.q + begin * view.q_stride, view.q_stride}, dk_head, stride, /*accumulate=*/true);
    }
  }
}

struct AttentionFunction : torch::autograd::Function<AttentionFunction> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& q, const Tensor& k,
                        const Tensor& v, const Bounds& bounds, double scale) {
    Tensor output = attention_forward(q, k, v, bounds, scale);
    context->save_for_backward({q, k, v, output});
    context->saved_data["bounds"] = bounds;
    context->saved_data["scale"] = scale;
    return output;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    auto saved = context->get_saved_variables();
    const Tensor &q = saved[0], &k = saved[1], &v = saved[2], &output = saved[3];
    const Bounds bounds = context->saved_data["bounds"].toIntVector();
    const double scale = context->saved_data["scale"].toDouble();
    const Shapes shape = shapes_of(q, k, v);
    Tensor dy = gradients[0].contiguous();
    Tensor dq = at::empty(q.sizes(), at::kFloat), dk = at::zeros(k.sizes(), at::kFloat),
           dv = at::zeros(v.sizes(), at::kFloat);
    const int64_t sequences = static_cast<int64_t>(bounds.size()) - 1;
    parallel_for(sequences * shape.kv_heads, [&](int64_t item) {
      const int64_t s = item / shape.kv_heads;
      attention_backward_head(q, k, v, output, dy, bounds[s], bounds[s + 1] - bounds[s],
                              item % shape.kv_heads, shape.group, scale, dq, dk, dv);
    });
    return {dq, dk, dv, Tensor(), Tensor()};
  }
};

// The last dimension must be dense; strides between tokens and heads may be anything.
Tensor dense_rows(const Tensor& x) { return x.stride(-1) == 1 ? x : x.contiguous(); }

}  // namespace

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const Bounds& bounds,
                 double scale) {
  QUERN_CHECK(!bounds.empty() && bounds.front() == 0 && bounds.back() == q.size(0) &&
              k.size(0) == q.size(0));
  return AttentionFunction::apply(dense_rows(q), dense_rows(k), dense_rows(v), bounds, scale);
}

Tensor cached_attention(const Tensor& q_in, const Tensor& k, const Tensor& v, double scale) {
  Tensor q = dense_rows(q_in);
  const Shapes shape = shapes_of(q, k, v);
  const int64_t past = k.size(0) - shape.tokens;
  QUERN_CHECK(past >= 0);
  Tensor output = at::empty({shape.tokens, shape.heads, shape.width}, at::kFloat);
  const int64_t tiles = (shape.tokens + kQueryTile - 1) / kQueryTile;
  parallel_for(tiles * shape.heads, [&](int64_t item) {
    const int64_t begin = item / shape.heads * kQueryTile;
    QueryTile tile{0, past, begin, std::min(shape.tokens, begin + kQueryTile), item % shape.heads};
    attend_tile(q, k, v, tile, shape.group, scale, output);
  });
  return output;
}

}  // namespace quern::ops
