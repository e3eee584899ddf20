#include "nn/pass.h"

#include <algorithm>

#include "base/error.h"
#include "ops/delta_rule.h"

namespace quern::nn {
namespace {

constexpr const char* kGridPositions = "grid_positions";

std::string keys_of(int layer) { return fmt::format("keys.{}", layer); }
std::string values_of(int layer) { return fmt::format("values.{}", layer); }

std::vector<ops::OngoingSequence> ongoing(const Pass& pass) {
  std::vector<ops::OngoingSequence> all;
  for (size_t i = 0; i < pass.places.size(); ++i)
    all.push_back({pass.bounds[i], pass.bounds[i + 1] - pass.bounds[i], pass.places[i].slot});
  return all;
}

}  // namespace

Pass Pass::whole(const std::vector<int64_t>& lengths) {
  Pass pass;
  pass.bounds = {0};
  std::vector<Tensor> positions;
  for (int64_t length : lengths) {
    pass.bounds.push_back(pass.bounds.back() + length);
    positions.push_back(at::arange(length, at::kLong));
  }
  pass.positions = at::cat(positions);
  return pass;
}

Tensor Pass::grid_positions() const {
  return shared.has(kGridPositions) ? shared.at(kGridPositions).t() : positions;
}

void Pass::share_grid_positions(const Tensor& grid) {
  shared.set(kGridPositions, grid.t().contiguous());
}

Pass Pass::next(int64_t past, int64_t tokens, Caches& caches) {
  Pass pass;
  pass.bounds = {0, tokens};
  pass.positions = at::arange(past, past + tokens, at::kLong);
  pass.caches = &caches;
  pass.places = {{.past = past}};
  return pass;
}

Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionShape& shape,
              Pass& pass) {
  if (pass.caches) {
    ops::PagedKv& cache = pass.caches->kv(shape.layer, {k.size(1), k.size(2), shape.window});
    ops::append(cache, k, v, pass.caches->sequences(shape.layer, pass.bounds, pass.places));
    return attend(q, {shape.layer, shape.scale, shape.window}, pass);
  }
  if (shape.shared) {
    pass.shared.set(keys_of(shape.layer), k.detach());
    pass.shared.set(values_of(shape.layer), v.detach());
  }
  return ops::attention(q, k, v, pass.bounds, shape.scale, shape.window);
}

Tensor attend(const Tensor& q, const AttentionShape& shape, Pass& pass) {
  if (pass.caches) {
    return ops::paged_attention(q, pass.caches->kv(shape.layer),
                                pass.caches->sequences(shape.layer, pass.bounds, pass.places),
                                shape.scale, shape.window);
  }
  return ops::attention(q, pass.shared.at(keys_of(shape.layer)),
                        pass.shared.at(values_of(shape.layer)), pass.bounds, shape.scale,
                        shape.window);
}

Tensor delta_net(const Tensor& qkv, const Tensor& filter, const Tensor& decay, const Tensor& beta,
                 const DeltaShape& shape, Pass& pass) {
  const int64_t keys = shape.key_heads * shape.key_dim,
                values = shape.value_heads * shape.value_dim;
  QUERN_CHECK(qkv.size(1) == 2 * keys + values);
  Tensor filtered;
  DeltaState* cache = nullptr;
  if (pass.caches) {
    cache = &pass.caches->delta(shape.layer, {filter.size(1), qkv.size(1), shape.value_heads,
                                              shape.key_dim, shape.value_dim});
    filtered = ops::causal_conv_silu_step(qkv, filter, ongoing(pass), cache->conv);
  } else {
    filtered = ops::causal_conv_silu(qkv, filter, pass.bounds);
  }
  // One split, because its gradient is one copy; the gradients of three narrows are three tensors,
  // each padded with zeros.
  const std::vector<Tensor> parts = filtered.split_with_sizes({keys, keys, values}, 1);
  const ops::DeltaInputs in{parts[0].unflatten(1, {shape.key_heads, shape.key_dim}),
                            parts[1].unflatten(1, {shape.key_heads, shape.key_dim}),
                            parts[2].unflatten(1, {shape.value_heads, shape.value_dim}), decay,
                            beta};
  return cache ? ops::delta_rule_step(in, ongoing(pass), cache->states)
               : ops::delta_rule(in, pass.bounds);
}

}  // namespace quern::nn
