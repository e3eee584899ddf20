// What a forward pass carries in addition to the activations: positions, sequence bounds, and the
// caches of sequences. Blocks read and write only their weights, their input and the Pass.
#pragma once

#include <vector>

#include "nn/caches.h"
#include "nn/media.h"
#include "nn/shared.h"
#include "ops/attention.h"
#include "tensor/tensor.h"

namespace quern::nn {

struct Pass {
  Tensor positions;  // int64 [tokens], or [3, tokens] (time, height, width)
  ops::Bounds bounds;
  Caches* caches = nullptr;                          // null: whole sequences, differentiable
  std::vector<CachePlace> places;                    // with caches: one for each sequence
  std::vector<int64_t>* pairs_per_expert = nullptr;  // incremented by the block's experts
  Shared shared;
  Media media;  // for the stem: the tokens that are parts of pictures

  // The positions for rotary embeddings: by row and column in sequences with pictures (if
  // `positions` has three axes, or `shared` holds such positions for blocks that run one at a
  // time), otherwise `positions`.
  Tensor grid_positions() const;
  // Stores positions in `shared`, for blocks that run one at a time. positions int64 [3, tokens].
  void share_grid_positions(const Tensor& positions);

  // Whole sequences of these lengths, concatenated, each with positions from 0.
  static Pass whole(const std::vector<int64_t>& lengths);
  // The next `tokens` tokens of one sequence, the first at position `past`.
  static Pass next(int64_t past, int64_t tokens, Caches& caches);
};

struct AttentionShape {
  int layer;  // the layer that makes the keys and values
  double scale;
  int64_t window = 0;   // keys that a query sees, itself included; 0: all earlier ones
  bool shared = false;  // later layers read these keys and values
};

// Causal attention, through the cache if the pass has one. q [tokens, heads, width], k, v [tokens,
// kv heads, width].
Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionShape& shape,
              Pass& pass);
// Attention with the keys and values that an earlier layer of this pass made and shares.
Tensor attend(const Tensor& q, const AttentionShape& shape, Pass& pass);

struct DeltaShape {
  int layer;
  int64_t key_heads, value_heads, key_dim, value_dim;
};

// The convolution, its activation and the gated delta rule of linear attention. qkv [tokens,
// channels]: queries, keys and values of all heads; filter fp32 [channels, taps]; decay, beta
// [tokens, value heads] -> [tokens, value heads, value dim].
Tensor delta_net(const Tensor& qkv, const Tensor& filter, const Tensor& decay, const Tensor& beta,
                 const DeltaShape& shape, Pass& pass);

}  // namespace quern::nn
