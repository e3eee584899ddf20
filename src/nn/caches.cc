#include "nn/caches.h"

#include <algorithm>
#include <set>

#include "base/error.h"
#include "base/threads.h"
#include "tensor/memory.h"

namespace quern::nn {
namespace {

constexpr int64_t kTokens = kernels::KvBlock::kTokens;

DeltaState make_state(const CacheLayout::Delta& shape, int64_t slots) {
  return {zero_pages({slots, shape.taps - 1, shape.channels}, at::kFloat),
          zero_pages({slots, shape.heads, shape.key_width, shape.value_width}, at::kFloat)};
}

}  // namespace

std::vector<int64_t> CacheLayout::windows() const {
  std::set<int64_t> all;
  for (const auto& [layer, shape] : kv) all.insert(shape.window);
  return {all.begin(), all.end()};
}

int64_t CacheLayout::token_bytes(int64_t window, KvType type) const {
  int64_t bytes = 0;
  for (const auto& [layer, shape] : kv)
    if (shape.window == window) bytes += ops::PagedKv::token_bytes(type, shape.heads, shape.width);
  return bytes;
}

int64_t CacheLayout::state_bytes() const {
  int64_t numbers = 0;
  for (const auto& [layer, shape] : delta)
    numbers +=
        (shape.taps - 1) * shape.channels + shape.heads * shape.key_width * shape.value_width;
  return numbers * static_cast<int64_t>(sizeof(float));
}

Caches::Caches(const CacheLayout& layout, KvType type, const std::vector<int64_t>& blocks,
               int64_t block_tokens, int64_t slots)
    : layout_(layout), growing_(false) {
  for (int64_t window : layout.windows()) groups_.emplace(window, groups_.size());
  QUERN_CHECK(groups_.size() == blocks.size());
  for (const auto& [layer, shape] : layout.kv) {
    const int64_t count = blocks[groups_.at(shape.window)];
    kv_.emplace(layer, ops::PagedKv(type, shape.heads, shape.width, count, block_tokens));
  }
  for (const auto& [layer, shape] : layout.delta) delta_.emplace(layer, make_state(shape, slots));
}

int64_t Caches::bytes(int layer) const {
  const auto cache = kv_.find(layer);
  return cache == kv_.end() ? 0 : static_cast<int64_t>(cache->second.memory.nbytes());
}

ops::PagedKv& Caches::kv(int layer, const CacheLayout::Kv& shape) {
  const auto known = kv_.find(layer);
  if (known != kv_.end()) return known->second;
  QUERN_CHECK(growing_);
  layout_.kv[layer] = shape;
  return kv_.emplace(layer, ops::PagedKv(KvType::fp32, shape.heads, shape.width, 0)).first->second;
}

DeltaState& Caches::delta(int layer, const CacheLayout::Delta& shape) {
  const auto known = delta_.find(layer);
  if (known != delta_.end()) return known->second;
  QUERN_CHECK(growing_);
  layout_.delta[layer] = shape;
  return delta_.emplace(layer, make_state(shape, 1)).first->second;
}

const int32_t* Caches::grown_table(int64_t window, int64_t past, int64_t end) {
  Growing& growing = tables_[window];
  if (window > 0) {
    for (int64_t block = std::max<int64_t>(0, past - window + 1) / kTokens - 1; block >= 0;
         --block) {
      int32_t& item = growing.table[static_cast<size_t>(block)];
      if (item < 0) break;
      growing.free.push_back(std::exchange(item, -1));
    }
  }
  while (std::ssize(growing.table) * kTokens < end) {
    if (growing.free.empty()) growing.free.push_back(growing.blocks++);
    growing.table.push_back(growing.free.back());
    growing.free.pop_back();
  }
  return growing.table.data();
}

std::vector<ops::PagedSequence> Caches::sequences(int layer, const ops::Bounds& bounds,
                                                  const std::vector<CachePlace>& places) {
  QUERN_CHECK(bounds.size() == places.size() + 1);
  const int64_t window = layout_.kv.at(layer).window;
  const size_t group = growing_ ? 0 : groups_.at(window);
  std::vector<ops::PagedSequence> all;
  for (size_t i = 0; i < places.size(); ++i) {
    const CachePlace& place = places[i];
    const int64_t tokens = bounds[i + 1] - bounds[i];
    all.push_back(
        {bounds[i], tokens, place.past,
         growing_ ? grown_table(window, place.past, place.past + tokens) : place.tables.at(group)});
  }
  if (growing_) {
    ops::PagedKv& cache = kv_.at(layer);
    const int64_t needed = tables_.at(window).blocks;
    // Grows by half, so a long sequence is copied only a few times.
    if (cache.blocks() < needed) cache.resize(needed + needed / 2);
  }
  return all;
}

void Caches::copy_state(int64_t from, int64_t to) {
  std::vector<Tensor> parts;
  for (const auto& [layer, state] : delta_) parts.insert(parts.end(), {state.conv, state.states});
  parallel_for(std::ssize(parts), [&](int64_t i) {
    const Tensor& all = parts[static_cast<size_t>(i)];
    Tensor slot = all.select(0, to);
    if (from < 0)
      slot.zero_();
    else
      slot.copy_(all.select(0, from));
  });
}

}  // namespace quern::nn
