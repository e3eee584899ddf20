#include "nn/pass.h"

#include <algorithm>

#include "base/error.h"
#include "ops/delta_rule.h"

namespace quern::nn {
namespace {

constexpr const char* kGridPositions = "grid_positions";

Tensor with_room(const Tensor& old, int64_t first, int64_t used, int64_t room, const Tensor& like) {
  std::vector<int64_t> shape = like.sizes().vec();
  shape[0] = room;
  Tensor moved = at::empty(shape, at::kFloat);
  if (used > 0) moved.narrow(0, 0, used).copy_(old.narrow(0, first, used));
  return moved;
}

std::string keys_of(int layer) { return fmt::format("keys.{}", layer); }
std::string values_of(int layer) { return fmt::format("values.{}", layer); }

// The newest inputs of the convolution, for the tokens that come after these.
Tensor newest(const Tensor& past, const Tensor& x) {
  const int64_t kept = past.size(0);
  if (x.size(0) >= kept) return x.narrow(0, x.size(0) - kept, kept).clone();
  return at::cat({past.narrow(0, x.size(0), kept - x.size(0)), x});
}

}  // namespace

void KvCache::append(const Tensor& k, const Tensor& v, int64_t window) {
  const int64_t added = k.size(0);
  const int64_t kept = window > 0 ? std::min(tokens_, window - 1) : tokens_;
  first_ += tokens_ - kept;
  if (!k_.defined() || first_ + kept + added > k_.size(0)) {
    // Half as much again, so that a long sequence is copied a few times in all.
    const int64_t needed = kept + added, room = std::max<int64_t>(needed + needed / 2, 256);
    k_ = with_room(k_, first_, kept, room, k);
    v_ = with_room(v_, first_, kept, room, v);
    first_ = 0;
  }
  k_.narrow(0, first_ + kept, added).copy_(k);
  v_.narrow(0, first_ + kept, added).copy_(v);
  tokens_ = kept + added;
}

int64_t KvCache::bytes() const {
  return k_.defined() ? static_cast<int64_t>(k_.nbytes() + v_.nbytes()) : 0;
}

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
  return pass;
}

Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionShape& shape,
              Pass& pass) {
  if (pass.caches) {
    pass.caches->kv(shape.layer).append(k, v, shape.window);
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
    const KvCache& cache = pass.caches->kv(shape.layer);
    return ops::cached_attention(q, cache.k(), cache.v(), shape.scale, shape.window);
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
  DeltaState* cache = pass.caches ? &pass.caches->delta(shape.layer) : nullptr;
  if (cache && !cache->conv.defined()) {
    cache->conv = at::zeros({filter.size(1) - 1, qkv.size(1)}, at::kFloat);
    cache->state = at::zeros({shape.value_heads, shape.key_dim, shape.value_dim}, at::kFloat);
  }
  Tensor filtered = ops::causal_conv_silu(qkv, filter, pass.bounds, cache ? cache->conv : Tensor());
  auto heads = [&](int64_t begin, int64_t count, int64_t width) {
    return filtered.narrow(1, begin, count * width).unflatten(1, {count, width});
  };
  ops::DeltaInputs in{heads(0, shape.key_heads, shape.key_dim),
                      heads(keys, shape.key_heads, shape.key_dim),
                      heads(2 * keys, shape.value_heads, shape.value_dim), decay, beta};
  if (!cache) return ops::delta_rule(in, pass.bounds);
  cache->conv = newest(cache->conv, qkv);
  return ops::delta_rule_step(in, cache->state);
}

}  // namespace quern::nn
