#include "ops/attention.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <memory>

#include "base/error.h"
#include "base/threads.h"
#include "ops/dense_rows.h"
#include "ops/float_matrix.h"

namespace quern::ops {
namespace {

// Queries in one tile. Their scores for all keys are the largest buffer.
constexpr int64_t kQueryTile = 128;

// One head of one sequence, as strided matrices [tokens, width].
struct HeadView {
  const float* q;
  const float* k;
  const float* v;
  int64_t q_stride, k_stride, v_stride, width;
};

// The keys of its sequence that a query sees: the latest `window` keys up to its own (0: all up to
// its own), or the first `all` keys if that is not 0.
struct Sight {
  int64_t window = 0, all = 0;

  int64_t first(int64_t query) const {
    return window > 0 ? std::max<int64_t>(0, query - window + 1) : 0;
  }
  int64_t end(int64_t query) const { return all > 0 ? all : query + 1; }
  // Keys that the queries [begin, end) see together, from first(begin).
  int64_t keys(int64_t begin, int64_t end) const { return this->end(end - 1) - first(begin); }
};

// Softmax of the scores of queries [begin, end) into `probabilities` [end - begin, keys(begin,
// end)]; zero where a query does not see a key.
void probabilities_of(const HeadView& head, int64_t begin, int64_t end, const Sight& sight,
                      double scale, float* probabilities) {
  const int64_t first = sight.first(begin), keys = sight.keys(begin, end), queries = end - begin;
  float_product({queries,
                 keys,
                 head.width,
                 {head.q + begin * head.q_stride, head.q_stride},
                 {head.k + first * head.k_stride, head.k_stride, /*transposed=*/true},
                 probabilities,
                 keys});
  for (int64_t i = 0; i < queries; ++i) {
    float* row = probabilities + i * keys;
    constexpr float kUnseen = -std::numeric_limits<float>::infinity();
    std::fill(row, row + sight.first(begin + i) - first, kUnseen);
    std::fill(row + sight.end(begin + i) - first, row + keys, kUnseen);
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
          v.stride(0),
          q.size(2)};
}

struct QueryTile {
  int64_t first_token, begin, end, head;
  Sight sight;
};

void attend_tile(const Tensor& q, const Tensor& k, const Tensor& v, const QueryTile& tile,
                 int64_t group, double scale, Tensor& output) {
  const Sight& sight = tile.sight;
  const HeadView head = head_view(q, k, v, tile.first_token, tile.head, group);
  const int64_t keys = sight.keys(tile.begin, tile.end), queries = tile.end - tile.begin;
  at::NoGradGuard no_grad;
  const auto probabilities = std::make_unique_for_overwrite<float[]>(queries * keys);
  probabilities_of(head, tile.begin, tile.end, sight, scale, probabilities.get());
  float* out = output.data_ptr<float>() + (tile.first_token + tile.begin) * output.stride(0) +
               tile.head * output.stride(1);
  float_product({queries,
                 head.width,
                 keys,
                 {probabilities.get(), keys},
                 {head.v + sight.first(tile.begin) * head.v_stride, head.v_stride},
                 out,
                 output.stride(0)});
}

Tensor attention_forward(const Tensor& q, const Tensor& k, const Tensor& v, const Bounds& bounds,
                         double scale, const std::function<Sight(int64_t length)>& sight_of) {
  const Shapes shape = shapes_of(q, k, v);
  Tensor output = at::empty({shape.tokens, shape.heads, shape.width}, q.options());
  std::vector<QueryTile> tiles;
  for (size_t s = 0; s + 1 < bounds.size(); ++s) {
    const int64_t length = bounds[s + 1] - bounds[s];
    for (int64_t begin = 0; begin < length; begin += kQueryTile) {
      for (int64_t head = 0; head < shape.heads; ++head) {
        tiles.push_back(
            {bounds[s], begin, std::min(length, begin + kQueryTile), head, sight_of(length)});
      }
    }
  }
  parallel_for(std::ssize(tiles),
               [&](int64_t i) { attend_tile(q, k, v, tiles[i], shape.group, scale, output); });
  return output;
}

// The inputs and outputs of the backward pass; dk and dv are undefined if not requested.
struct Gradients {
  Tensor q, k, v, output, dy;
  double scale;
  Tensor dq, dk, dv;
};

// ds = p * (dp - <dy, y>) * scale of one query, in place of dp: the gradient of the softmax, whose
// sum(p * dp) is <dy, y>.
void softmax_backward(const float* p, const float* dy, const float* y, int64_t width, int64_t keys,
                      double scale, float* dp) {
  float dot = 0;
  for (int64_t c = 0; c < width; ++c) dot += dy[c] * y[c];
  for (int64_t j = 0; j < keys; ++j) dp[j] = p[j] * (dp[j] - dot) * static_cast<float>(scale);
}

// For one key/value head of one sequence: gradients of its q heads, of k and of v.
void attention_backward_head(const Gradients& g, int64_t sequence_begin, int64_t length,
                             int64_t kv_head, int64_t group, const Sight& sight) {
  const int64_t width = g.q.size(2),
                longest = std::min(length, sight.window > 0 ? sight.window + kQueryTile : length);
  at::NoGradGuard no_grad;
  const auto p = std::make_unique_for_overwrite<float[]>(kQueryTile * longest),
             ds = std::make_unique_for_overwrite<float[]>(kQueryTile * longest);
  for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    const HeadView view = head_view(g.q, g.k, g.v, sequence_begin, head, group);
    for (int64_t begin = 0; begin < length; begin += kQueryTile) {
      const int64_t end = std::min(length, begin + kQueryTile), rows = end - begin;
      const int64_t first = sight.first(begin), keys = sight.keys(begin, end);
      probabilities_of(view, begin, end, sight, g.scale, p.get());
      const int64_t stride = g.output.stride(0),
                    place = (sequence_begin + begin) * stride + head * g.output.stride(1);
      const float* y = g.output.const_data_ptr<float>() + place;
      const float* dy = g.dy.const_data_ptr<float>() + place;
      const auto of_keys = [&](const Tensor& dx) {
        return dx.data_ptr<float>() + (sequence_begin + first) * dx.stride(0) + kv_head * width;
      };
      if (g.dv.defined()) {
        float_product({keys,
                       width,
                       rows,
                       {p.get(), keys, /*transposed=*/true},
                       {dy, stride},
                       of_keys(g.dv),
                       g.dv.stride(0),
                       /*accumulate=*/true});
      }
      float_product({rows,
                     keys,
                     width,
                     {dy, stride},
                     {view.v + first * view.v_stride, view.v_stride, /*transposed=*/true},
                     ds.get(),
                     keys});
      for (int64_t i = 0; i < rows; ++i) {
        softmax_backward(p.get() + i * keys, dy + i * stride, y + i * stride, width, keys, g.scale,
                         ds.get() + i * keys);
      }
      float* dq = g.dq.data_ptr<float>() + (sequence_begin + begin) * g.dq.stride(0) +
                  head * g.dq.stride(1);
      float_product({rows,
                     width,
                     keys,
                     {ds.get(), keys},
                     {view.k + first * view.k_stride, view.k_stride},
                     dq,
                     g.dq.stride(0)});
      if (g.dk.defined()) {
        float_product({keys,
                       width,
                       rows,
                       {ds.get(), keys, /*transposed=*/true},
                       {view.q + begin * view.q_stride, view.q_stride},
                       of_keys(g.dk),
                       g.dk.stride(0),
                       /*accumulate=*/true});
      }
    }
  }
}

struct AttentionFunction : torch::autograd::Function<AttentionFunction> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& q, const Tensor& k,
                        const Tensor& v, const Bounds& bounds, double scale, int64_t window) {
    Tensor output =
        attention_forward(q, k, v, bounds, scale, [&](int64_t) { return Sight{window}; });
    context->save_for_backward({q, k, v, output});
    context->saved_data["bounds"] = bounds;
    context->saved_data["scale"] = scale;
    context->saved_data["window"] = window;
    return output;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    auto saved = context->get_saved_variables();
    Gradients g{.q = saved[0],
                .k = saved[1],
                .v = saved[2],
                .output = saved[3],
                .dy = gradients[0].contiguous(),
                .scale = context->saved_data["scale"].toDouble(),
                .dq = at::empty(saved[0].sizes(), saved[0].options()),
                .dk = {},
                .dv = {}};
    if (context->needs_input_grad(1)) g.dk = at::zeros(g.k.sizes(), g.k.options());
    if (context->needs_input_grad(2)) g.dv = at::zeros(g.v.sizes(), g.v.options());
    const Bounds bounds = context->saved_data["bounds"].toIntVector();
    const Sight sight{context->saved_data["window"].toInt()};
    const Shapes shape = shapes_of(g.q, g.k, g.v);
    const int64_t sequences = static_cast<int64_t>(bounds.size()) - 1;
    parallel_for(sequences * shape.kv_heads, [&](int64_t item) {
      const int64_t s = item / shape.kv_heads;
      attention_backward_head(g, bounds[s], bounds[s + 1] - bounds[s], item % shape.kv_heads,
                              shape.group, sight);
    });
    return {g.dq, g.dk, g.dv, Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const Bounds& bounds,
                 double scale, int64_t window) {
  QUERN_CHECK(!bounds.empty() && bounds.front() == 0 && bounds.back() == q.size(0) &&
              k.size(0) == q.size(0));
  return AttentionFunction::apply(dense_rows(q), dense_rows(k), dense_rows(v), bounds, scale,
                                  window);
}

Tensor patch_attention(const Tensor& q, const Tensor& k, const Tensor& v, double scale) {
  QUERN_CHECK(q.dim() == 3 && q.sizes() == k.sizes() && q.sizes() == v.sizes());
  return attention_forward(dense_rows(q), dense_rows(k), dense_rows(v), {0, q.size(0)}, scale,
                           [](int64_t patches) { return Sight{.all = patches}; });
}

}  // namespace quern::ops
