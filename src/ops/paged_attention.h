// Attention over keys and values that lie in blocks of tokens anywhere in memory. A block is read
// where it lies, once for all query heads that share its head. The result of a query depends on its
// own sequence alone: not on the other sequences, how many of its tokens come at once, or the size
// of the blocks.
#pragma once

#include <span>

#include "kernels/sequence.h"
#include "tensor/tensor.h"

namespace quern::ops {

using kernels::KvType;

// The keys and values of one layer. A block of the cache is one or several of the kernels' blocks
// of 16 tokens, one after another.
struct PagedKv {
  KvType type = KvType::fp32;
  int64_t heads = 0, width = 0;
  int64_t block_tokens = kernels::KvBlock::kTokens;  // a multiple of it
  // What is stored is divided by these; 8 bits need it, if a checkpoint says so.
  float k_scale = 1, v_scale = 1;
  Tensor memory;  // uint8 [blocks, block_tokens / 16, heads, bytes of 16 tokens of one head]

  PagedKv() = default;
  PagedKv(KvType type, int64_t heads, int64_t width, int64_t blocks,
          int64_t block_tokens = kernels::KvBlock::kTokens);

  // Heads are padded to whole vectors.
  kernels::KvBlock block() const { return {type, (width + 15) / 16 * 16}; }
  int64_t blocks() const { return memory.size(0); }
  // Where the kernels' block of one head lies that holds a token of a sequence.
  int64_t offset(const int32_t* table, int64_t token, int64_t head) const;
  // Keeps the contents of the blocks that there are.
  void resize(int64_t blocks);

  static int64_t token_bytes(KvType type, int64_t heads, int64_t width);
};

// One sequence of a pass: rows [first, first + tokens) are its tokens after `past` earlier ones.
// `table`: the block of tokens [n i, n i + n), n = block_tokens, for all that are looked at.
struct PagedSequence {
  int64_t first, tokens, past;
  const int32_t* table;
};

// Puts the sequences' new keys and values into their blocks. k, v fp32 [tokens, heads, width].
void append(PagedKv& cache, const Tensor& k, const Tensor& v,
            std::span<const PagedSequence> sequences);

// q fp32 [tokens, query heads, width] -> the same shape. Query head h reads head h / (query heads /
// heads); scale multiplies the products; a query sees the newest `window` keys up to its own, 0:
// all. The keys and values of the sequences' new tokens are in their blocks already.
Tensor paged_attention(const Tensor& q, const PagedKv& cache,
                       std::span<const PagedSequence> sequences, double scale, int64_t window);

}  // namespace quern::ops
