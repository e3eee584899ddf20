// What a forward pass carries beside the activations: where tokens stand, which belong together,
// and the caches that sequences keep between passes. Blocks read and write nothing but their
// weights, their input and the Pass.
#pragma once

#include <map>
#include <vector>

#include "ops/attention.h"
#include "tensor/tensor.h"

namespace quern::nn {

// Keys and values of one layer of one sequence, [tokens so far, kv heads, width].
class KvCache {
 public:
  void append(const Tensor& k, const Tensor& v);
  Tensor k() const { return k_.narrow(0, 0, tokens_); }
  Tensor v() const { return v_.narrow(0, 0, tokens_); }

 private:
  Tensor k_, v_;  // with room to grow
  int64_t tokens_ = 0;
};

// What a linear-attention layer keeps of a sequence.
struct DeltaState {
  Tensor conv;   // the newest taps - 1 inputs of the convolution, fp32 [taps - 1, channels], oldest
                 // first
  Tensor state;  // fp32 [value heads, key width, value width]
};

// The caches of one sequence; layers are made when they are first asked for.
class Caches {
 public:
  KvCache& kv(int layer) { return kv_[layer]; }
  DeltaState& delta(int layer) { return delta_[layer]; }

 private:
  std::map<int, KvCache> kv_;
  std::map<int, DeltaState> delta_;
};

struct Pass {
  Tensor positions;  // int64 [tokens], or [3, tokens] (time, height, width)
  ops::Bounds bounds;
  Caches* caches = nullptr;                          // null: whole sequences, differentiable
  std::vector<int64_t>* pairs_per_expert = nullptr;  // counted up by the block's experts

  // Whole sequences of these lengths, one after another, positions from 0.
  static Pass whole(const std::vector<int64_t>& lengths);
  // The next `tokens` tokens of one sequence, the first at position `past`.
  static Pass next(int64_t past, int64_t tokens, Caches& caches);
};

struct AttentionShape {
  int layer;
  double scale;
};

// Causal attention, through the cache if the pass has one. q [tokens, heads, width], k, v [tokens,
// kv heads, width].
Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionShape& shape,
              Pass& pass);

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
