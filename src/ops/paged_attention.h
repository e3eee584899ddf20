// Attention over keys and values in blocks of tokens anywhere in memory. A block is read in place,
// once for all query heads that share its head. The result of a query depends only on its own
// sequence, not on other sequences, the number of tokens per pass, or the size of the blocks.
#pragma once

#include <span>

#include "kernels/sequence.h"
#include "tensor/tensor.h"

namespace quern::ops {

using kernels::KvType;

// The keys and values of one layer. A block of the cache is one or several consecutive blocks of 16
// tokens, the kernels' block size.
struct PagedKv {
  KvType type = KvType::fp32;
  int64_t heads = 0, width = 0;
  int64_t block_tokens = kernels::KvBlock::kTokens;  // a multiple of kTokens
  // Keys and values are divided by these before they are stored, if a checkpoint has scales for
  // 8-bit caches.
  float k_scale = 1, v_scale = 1;
  Tensor memory;  // uint8 [blocks, block_tokens / 16, heads, bytes of 16 tokens of one head]

  PagedKv() = default;
  PagedKv(KvType type, int64_t heads, int64_t width, int64_t blocks,
          int64_t block_tokens = kernels::KvBlock::kTokens);

  // The width of a head is padded to whole vectors.
  kernels::KvBlock block() const { return {type, (width + 15) / 16 * 16}; }
  int64_t blocks() const { return memory.size(0); }
  // The offset of the kernels' block that holds a token of a sequence, for one head.
  int64_t offset(const int32_t* table, int64_t token, int64_t head) const;
  // Keeps the contents of existing blocks.
  void resize(int64_t blocks);

  static int64_t token_bytes(KvType type, int64_t heads, int64_t width);
};

// One sequence of a pass: rows [first, first + tokens) are its tokens after `past` earlier ones.
// `table`: entry i is the block of tokens [n i, n i + n), n = block_tokens, for all visible tokens.
struct PagedSequence {
  int64_t first, tokens, past;
  const int32_t* table;
};

// Stores the sequences' new keys and values in their blocks. k, v fp32 [tokens, heads, width].
void append(PagedKv& cache, const Tensor& k, const Tensor& v,
            std::span<const PagedSequence> sequences);

// q fp32 [tokens, query heads, width] -> the same shape. Query head h reads head h / (query heads /
// heads); scale multiplies the products; a query sees the latest `window` keys up to its own (0:
// all). The blocks must already hold the keys and values of the new tokens.
Tensor paged_attention(const Tensor& q, const PagedKv& cache,
                       std::span<const PagedSequence> sequences, double scale, int64_t window);

}  // namespace quern::ops
