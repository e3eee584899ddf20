#include "ops/paged_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/error.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "ops/dense_rows.h"
#include "tensor/memory.h"

namespace quern::ops {
namespace {

constexpr int64_t kTokens = kernels::KvBlock::kTokens;
// Keys in one partial sum. Partial sums begin at multiples of kSpan and are added in order. Threads
// share the work at these fixed places, so the bits do not depend on the number of threads.
constexpr int64_t kSpan = 1024;
// Queries of one tile; they share each block read.
constexpr int64_t kQueries = 16;
// Partial sums in memory at once; a long sequence has hundreds.
constexpr size_t kHeld = 32;
// Spans of a tile that are items of their own, whatever else there is to do.
constexpr size_t kLongTile = 8;

// Query heads of one key/value head at some tokens of a sequence.
struct Tile {
  const PagedSequence* sequence;
  int64_t head, begin, end;  // tokens, counted from the sequence's first row

  int64_t first_key(int64_t window) const {
    return window > 0 ? std::max<int64_t>(0, sequence->past + begin - window + 1) : 0;
  }
  int64_t last_key() const { return sequence->past + end; }  // exclusive
};

// The partial result of the rows of a tile.
struct Gathered {
  std::vector<float> weighted, largest, sum;

  Gathered(int64_t rows, int64_t width)
      : weighted(static_cast<size_t>(rows * width), 0.0f),
        largest(static_cast<size_t>(rows), -std::numeric_limits<float>::infinity()),
        sum(static_cast<size_t>(rows), 0.0f) {}

  void add(const Gathered& later, int64_t width) {
    for (size_t row = 0; row < sum.size(); ++row) {
      if (later.sum[row] == 0) continue;
      const float most = std::max(largest[row], later.largest[row]);
      const float mine = sum[row] == 0 ? 0.0f : std::exp(largest[row] - most),
                  theirs = std::exp(later.largest[row] - most);
      sum[row] = sum[row] * mine + later.sum[row] * theirs;
      largest[row] = most;
      float* to = weighted.data() + row * static_cast<size_t>(width);
      const float* from = later.weighted.data() + row * static_cast<size_t>(width);
      for (int64_t c = 0; c < width; ++c) to[c] = to[c] * mine + from[c] * theirs;
    }
  }
};

class PagedAttention {
 public:
  PagedAttention(const Tensor& q, const PagedKv& cache, double scale, int64_t window)
      : q_(q),
        cache_(cache),
        block_(cache.block()),
        group_(q.size(1) / cache.heads),
        window_(window),
        scale_(static_cast<float>(scale) * cache.k_scale) {}

  // The tile's queries over the visible keys of [span, span + kSpan).
  Gathered gather(const Tile& tile, int64_t span) const {
    const int64_t rows = (tile.end - tile.begin) * group_;
    Gathered gathered(rows, block_.width);
    const std::vector<float> q = queries(tile);
    std::vector<int32_t> begin(static_cast<size_t>(rows)), end(begin);
    const int64_t last = std::min(span + kSpan, tile.last_key());
    for (int64_t key = std::max(span, tile.first_key(window_) / kTokens * kTokens); key < last;
         key += kTokens) {
      for (int64_t row = 0; row < rows; ++row) {
        const int64_t own = tile.sequence->past + tile.begin + row / group_;
        const int64_t first = window_ > 0 ? std::max<int64_t>(0, own - window_ + 1) : 0;
        begin[row] = static_cast<int32_t>(std::clamp<int64_t>(first - key, 0, kTokens));
        end[row] = static_cast<int32_t>(std::clamp<int64_t>(own + 1 - key, 0, kTokens));
      }
      kernels::cpu_kernels().attend(
          block_,
          cache_.memory.const_data_ptr<uint8_t>() +
              cache_.offset(tile.sequence->table, key, tile.head),
          begin.data(), end.data(),
          {rows, q.data(), gathered.weighted.data(), gathered.largest.data(), gathered.sum.data()});
    }
    return gathered;
  }

  void finish(const Tile& tile, const Gathered& gathered, Tensor& output) const {
    for (int64_t row = 0; row < (tile.end - tile.begin) * group_; ++row) {
      const int64_t token = tile.sequence->first + tile.begin + row / group_,
                    head = tile.head * group_ + row % group_;
      const float factor = cache_.v_scale / gathered.sum[static_cast<size_t>(row)];
      const float* from = gathered.weighted.data() + row * block_.width;
      float* to = output.data_ptr<float>() + (token * q_.size(1) + head) * cache_.width;
      for (int64_t c = 0; c < cache_.width; ++c) to[c] = from[c] * factor;
    }
  }

  int64_t width() const { return block_.width; }

 private:
  // [tokens of the tile, group, padded width]
  std::vector<float> queries(const Tile& tile) const {
    std::vector<float> rows(static_cast<size_t>((tile.end - tile.begin) * group_ * block_.width),
                            0.0f);
    float* to = rows.data();
    for (int64_t token = tile.begin; token < tile.end; ++token) {
      for (int64_t i = 0; i < group_; ++i, to += block_.width) {
        const float* from = q_.const_data_ptr<float>() +
                            (tile.sequence->first + token) * q_.stride(0) +
                            (tile.head * group_ + i) * q_.stride(1);
        for (int64_t c = 0; c < cache_.width; ++c) to[c] = from[c] * scale_;
      }
    }
    return rows;
  }

  const Tensor& q_;
  const PagedKv& cache_;
  kernels::KvBlock block_;
  int64_t group_, window_;
  float scale_;
};

void check_rows(const Tensor& x, int64_t heads, int64_t width,
                std::span<const PagedSequence> sequences) {
  QUERN_CHECK(x.dim() == 3 && x.size(2) == width && x.size(1) % heads == 0);
  QUERN_CHECK(x.scalar_type() == at::kFloat);
  for (const PagedSequence& sequence : sequences)
    QUERN_CHECK(sequence.first + sequence.tokens <= x.size(0));
}

}  // namespace

PagedKv::PagedKv(KvType kv_type, int64_t kv_heads, int64_t kv_width, int64_t blocks,
                 int64_t tokens_of_block)
    : type(kv_type), heads(kv_heads), width(kv_width), block_tokens(tokens_of_block) {
  QUERN_CHECK(block_tokens > 0 && block_tokens % kTokens == 0);
  resize(blocks);
}

int64_t PagedKv::offset(const int32_t* table, int64_t token, int64_t head) const {
  const int64_t item = table[token / block_tokens];
  QUERN_CHECK(item >= 0 && item < blocks());
  const int64_t place = (item * block_tokens + token % block_tokens) / kTokens;
  return (place * heads + head) * block().bytes();
}

int64_t PagedKv::token_bytes(KvType type, int64_t heads, int64_t width) {
  return heads * kernels::KvBlock{type, (width + 15) / 16 * 16}.bytes() / kTokens;
}

void PagedKv::resize(int64_t blocks) {
  // Zeros, because sums include the padding.
  Tensor larger = zero_pages({blocks, block_tokens / kTokens, heads, block().bytes()}, at::kByte);
  if (memory.defined()) {
    const int64_t kept = std::min(blocks, memory.size(0));
    larger.narrow(0, 0, kept).copy_(memory.narrow(0, 0, kept));
  }
  memory = std::move(larger);
}

void append(PagedKv& cache, const Tensor& k_in, const Tensor& v_in,
            std::span<const PagedSequence> sequences) {
  const Tensor k = dense_rows(k_in), v = dense_rows(v_in);
  check_rows(k, cache.heads, cache.width, sequences);
  QUERN_CHECK(v.sizes() == k.sizes() && k.size(1) == cache.heads);
  const kernels::KvBlock block = cache.block();
  const float k_factor = 1 / cache.k_scale, v_factor = 1 / cache.v_scale;
  parallel_for(std::ssize(sequences) * cache.heads, [&](int64_t i) {
    const PagedSequence& sequence = sequences[static_cast<size_t>(i / cache.heads)];
    const int64_t head = i % cache.heads;
    for (int64_t t = 0; t < sequence.tokens; ++t) {
      const int64_t place = sequence.past + t, lane = place % kTokens;
      uint8_t* keys = cache.memory.data_ptr<uint8_t>() + cache.offset(sequence.table, place, head);
      uint8_t* values = keys + block.key_bytes();
      const int64_t row = sequence.first + t;
      const float* from_k = k.const_data_ptr<float>() + row * k.stride(0) + head * k.stride(1);
      const float* from_v = v.const_data_ptr<float>() + row * v.stride(0) + head * v.stride(1);
      for (int64_t c = 0; c < cache.width; ++c) {
        kernels::store_kv(cache.type, keys, c * kTokens + lane, from_k[c] * k_factor);
        kernels::store_kv(cache.type, values, lane * block.width + c, from_v[c] * v_factor);
      }
    }
  });
}

namespace {

// The work of a pass: the tiles, and the spans of keys of each tile.
struct Cut {
  struct Span {
    size_t tile;
    int64_t key;
  };
  std::vector<Tile> tiles;
  std::vector<Span> spans;
  std::vector<size_t> first_span;  // of each tile, and one past the last

  size_t spans_of(size_t tile) const { return first_span[tile + 1] - first_span[tile]; }

  Cut(std::span<const PagedSequence> sequences, int64_t heads, int64_t window) {
    for (const PagedSequence& sequence : sequences) {
      for (int64_t begin = 0; begin < sequence.tokens; begin += kQueries) {
        for (int64_t head = 0; head < heads; ++head)
          add({&sequence, head, begin, std::min(sequence.tokens, begin + kQueries)}, window);
      }
    }
    first_span.push_back(spans.size());
  }

 private:
  void add(const Tile& tile, int64_t window) {
    first_span.push_back(spans.size());
    for (int64_t key = tile.first_key(window) / kSpan * kSpan; key < tile.last_key(); key += kSpan)
      spans.push_back({tiles.size(), key});
    tiles.push_back(tile);
  }
};

void attend_by_tiles(const PagedAttention& attention, const Cut& cut, std::span<const size_t> tiles,
                     Tensor& output) {
  parallel_for(std::ssize(tiles), [&](int64_t i) {
    const size_t tile = tiles[static_cast<size_t>(i)];
    size_t span = cut.first_span[tile];
    Gathered sum = attention.gather(cut.tiles[tile], cut.spans[span].key);
    while (++span < cut.first_span[tile + 1])
      sum.add(attention.gather(cut.tiles[tile], cut.spans[span].key), attention.width());
    attention.finish(cut.tiles[tile], sum, output);
  });
}

void attend_by_spans(const PagedAttention& attention, const Cut& cut, std::span<const size_t> tiles,
                     Tensor& output) {
  std::vector<size_t> all;
  for (const size_t tile : tiles)
    for (size_t span = cut.first_span[tile]; span < cut.first_span[tile + 1]; ++span)
      all.push_back(span);
  std::vector<Gathered> parts(kHeld, Gathered(0, 0));
  Gathered sum(0, 0);
  for (size_t first = 0; first < all.size(); first += kHeld) {
    const auto held = std::span(all).subspan(first, std::min(kHeld, all.size() - first));
    parallel_for(std::ssize(held), [&](int64_t i) {
      const Cut::Span& span = cut.spans[held[static_cast<size_t>(i)]];
      parts[static_cast<size_t>(i)] = attention.gather(cut.tiles[span.tile], span.key);
    });
    for (size_t i = 0; i < held.size(); ++i) {
      const size_t tile = cut.spans[held[i]].tile;
      if (held[i] == cut.first_span[tile])
        sum = std::move(parts[i]);
      else
        sum.add(parts[i], attention.width());
      if (held[i] + 1 == cut.first_span[tile + 1]) attention.finish(cut.tiles[tile], sum, output);
    }
  }
}

}  // namespace

Tensor paged_attention(const Tensor& q_in, const PagedKv& cache,
                       std::span<const PagedSequence> sequences, double scale, int64_t window) {
  const Tensor q = dense_rows(q_in);
  check_rows(q, cache.heads, cache.width, sequences);
  const PagedAttention attention(q, cache, scale, window);
  const Cut cut(sequences, cache.heads, window);
  Tensor output = at::empty(q.sizes(), q.options());
  // With many tiles there is enough parallel work without cutting the keys. But a long sequence
  // among short ones would keep one thread for each head busy long after the others have finished.
  const bool few = std::ssize(cut.tiles) < 8 * cache.heads;
  std::vector<size_t> by_spans, by_tiles;
  for (size_t tile = 0; tile < cut.tiles.size(); ++tile)
    (few || cut.spans_of(tile) > kLongTile ? by_spans : by_tiles).push_back(tile);
  attend_by_spans(attention, cut, by_spans, output);
  attend_by_tiles(attention, cut, by_tiles, output);
  return output;
}

}  // namespace quern::ops
