#include "ops/paged_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>

#include "base/threads.h"
#include "ops/attention.h"

namespace quern::ops {
namespace {

constexpr int64_t kHeads = 2, kGroup = 3;

double distance(const Tensor& a, const Tensor& b) { return (a - b).abs().max().item<double>(); }

// Sequences of these lengths, with randomly assigned cache blocks.
struct Case {
  Case(std::vector<int64_t> sequence_lengths, int64_t width, KvType type, int64_t block_tokens = 16)
      : lengths(std::move(sequence_lengths)), cache(type, kHeads, width, 400, block_tokens) {
    prepare_torch();
    at::manual_seed(2);
    std::vector<int32_t> items(400);
    std::iota(items.begin(), items.end(), 0);
    std::ranges::shuffle(items, std::mt19937(4));
    for (int64_t length : lengths) {
      q.push_back(at::randn({length, kHeads * kGroup, width}));
      k.push_back(at::randn({length, kHeads, width}));
      v.push_back(at::randn({length, kHeads, width}));
      tables.emplace_back();
      for (int64_t token = 0; token < length; token += cache.block_tokens) {
        tables.back().push_back(items.back());
        items.pop_back();
      }
    }
  }

  // Tokens [begin, end) of each of `which` in one pass; the outputs of the first of them.
  Tensor pass(const std::vector<size_t>& which, int64_t begin, int64_t end, int64_t window) {
    std::vector<Tensor> qs, ks, vs;
    std::vector<PagedSequence> sequences;
    int64_t row = 0;
    for (size_t s : which) {
      const int64_t stop = std::min(end, lengths[s]), start = std::min(begin, stop);
      qs.push_back(q[s].slice(0, start, stop));
      ks.push_back(k[s].slice(0, start, stop));
      vs.push_back(v[s].slice(0, start, stop));
      sequences.push_back({row, stop - start, start, tables[s].data()});
      row += stop - start;
    }
    append(cache, at::cat(ks), at::cat(vs), sequences);
    return paged_attention(at::cat(qs), cache, sequences, 0.2, window).slice(0, 0, qs[0].size(0));
  }

  Tensor by_pieces(const std::vector<size_t>& which, const std::vector<int64_t>& cuts,
                   int64_t window) {
    std::vector<Tensor> parts;
    for (size_t i = 0; i + 1 < cuts.size(); ++i)
      parts.push_back(pass(which, cuts[i], cuts[i + 1], window));
    return at::cat(parts);
  }

  std::vector<int64_t> lengths;
  std::vector<Tensor> q, k, v;
  std::vector<std::vector<int32_t>> tables;
  PagedKv cache;
};

TEST(PagedAttention, EqualsAttentionOverWholeSequences) {
  for (int64_t width : {32, 24}) {
    for (int64_t window : {0, 1, 15, 40, 2000}) {
      Case c({1300}, width, KvType::fp32);
      const Tensor whole = attention(c.q[0], c.k[0], c.v[0], {0, 1300}, 0.2, window);
      EXPECT_LT(distance(c.by_pieces({0}, {0, 1300}, window), whole), 3e-6) << window;
      EXPECT_LT(distance(c.by_pieces({0}, {0, 1, 17, 600, 1299, 1300}, window), whole), 3e-6);
    }
  }
}

TEST(PagedAttention, AQueryDependsOnItsSequenceAlone) {
  for (KvType type : {KvType::fp32, KvType::bf16, KvType::fp8_e4m3}) {
    for (int64_t window : {0, 37}) {
      auto fresh = [&] { return Case({1100, 90, 1100, 5}, 32, type); };
      Case alone = fresh();
      std::vector<int64_t> one_by_one(1101);
      std::iota(one_by_one.begin(), one_by_one.end(), 0);
      const Tensor expected = alone.by_pieces({0}, one_by_one, window);
      Case whole = fresh(), batch = fresh(), pieces = fresh();
      EXPECT_TRUE(at::equal(whole.by_pieces({0}, {0, 1100}, window), expected));
      EXPECT_TRUE(at::equal(batch.by_pieces({0, 1, 2, 3}, {0, 900, 901, 1100}, window), expected));
      set_threads(3);
      EXPECT_TRUE(
          at::equal(pieces.by_pieces({0, 2}, {0, 3, 40, 57, 1024, 1100}, window), expected));
      set_threads(1);
    }
  }
}

TEST(PagedAttention, TheSizeOfABlockIsNoMatter) {
  for (KvType type : {KvType::bf16, KvType::fp8_e4m3}) {
    for (int64_t window : {0, 37, 1500}) {
      auto answer = [&](int64_t block_tokens) {
        Case c({1100, 90, 5}, 32, type, block_tokens);
        return c.by_pieces({0, 1, 2}, {0, 3, 40, 57, 900, 901, 1024, 1100}, window);
      };
      const Tensor expected = answer(16);
      for (int64_t block_tokens : {32, 48, 64, 128})
        EXPECT_TRUE(at::equal(answer(block_tokens), expected)) << block_tokens << ", " << window;
    }
  }
}

// A single query is cut by keys, into more pieces than are in memory at once; many queries are not
// cut.
TEST(PagedAttention, LongSequencesInPieces) {
  Case c({40'000}, 16, KvType::fp32, 128);
  append(c.cache, c.k[0], c.v[0], std::vector<PagedSequence>{{0, 40'000, 0, c.tables[0].data()}});
  auto last = [&](int64_t queries) {
    const int64_t past = 40'000 - queries;
    const std::vector<PagedSequence> sequence = {{0, queries, past, c.tables[0].data()}};
    return paged_attention(c.q[0].slice(0, past), c.cache, sequence, 0.2, 0)[queries - 1];
  };
  EXPECT_TRUE(at::equal(last(1), last(130)));
}

// Cut by keys itself, while the others are not.
TEST(PagedAttention, ALongSequenceAmongShortOnes) {
  std::vector<int64_t> lengths(12, 40);
  lengths[5] = 20'000;
  Case c(lengths, 16, KvType::fp32, 128);
  std::vector<PagedSequence> last;
  std::vector<Tensor> queries;
  for (size_t s = 0; s < lengths.size(); ++s) {
    append(c.cache, c.k[s], c.v[s],
           std::vector<PagedSequence>{{0, lengths[s], 0, c.tables[s].data()}});
    last.push_back({static_cast<int64_t>(s), 1, lengths[s] - 1, c.tables[s].data()});
    queries.push_back(c.q[s].slice(0, lengths[s] - 1));
  }
  const Tensor together = paged_attention(at::cat(queries), c.cache, last, 0.2, 0);
  for (size_t s = 0; s < lengths.size(); ++s) {
    last[s].first = 0;
    const Tensor alone = paged_attention(queries[s], c.cache, std::span(&last[s], 1), 0.2, 0);
    EXPECT_TRUE(at::equal(together[static_cast<int64_t>(s)], alone[0])) << s;
  }
}

TEST(PagedAttention, WhatOthersLeftInABlockDoesNotShow) {
  Case clean({20}, 32, KvType::fp32), dirty({20}, 32, KvType::fp32);
  dirty.cache.memory.fill_(0xff);  // NaN everywhere
  EXPECT_TRUE(at::equal(clean.pass({0}, 0, 20, 0), dirty.pass({0}, 0, 20, 0)));
}

TEST(PagedAttention, ShortTypesAreNearAndScaled) {
  Case exact({200}, 64, KvType::fp32);
  const Tensor expected = exact.pass({0}, 0, 200, 0);
  for (const auto& [type, bound] :
       {std::pair{KvType::bf16, 0.02}, {KvType::fp16, 0.003}, {KvType::fp8_e4m3, 0.25}}) {
    Case c({200}, 64, type);
    const Tensor got = c.pass({0}, 0, 200, 0);
    EXPECT_LT(distance(got, expected), bound);
    EXPECT_GT(distance(got, expected), 0);
  }
  // Values far outside the range of 8 bits, which the scales restore.
  Case large({200}, 64, KvType::fp8_e4m3);
  large.k[0] *= 1000;
  large.v[0] *= 1000;
  large.q[0] /= 1000;
  large.cache.k_scale = large.cache.v_scale = 1000;
  EXPECT_LT(distance(large.pass({0}, 0, 200, 0) / 1000, expected), 0.25);
  large.cache.k_scale = large.cache.v_scale = 1;
  EXPECT_GT(distance(large.pass({0}, 0, 200, 0) / 1000, expected), 0.5) << "clamped to 448";
}

}  // namespace
}  // namespace quern::ops
