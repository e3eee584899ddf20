// The state of sequences between passes: keys and values in blocks, states of linear attention in
// slots. Many sequences share the memory of a layer; the engine assigns blocks to sequences.
#pragma once

#include <map>
#include <vector>

#include "ops/delta_rule.h"
#include "ops/paged_attention.h"

namespace quern::nn {

using ops::KvType;

// The layers with caches, and the shapes of the caches.
struct CacheLayout {
  struct Kv {
    int64_t heads, width;
    int64_t window;  // keys that a query sees, itself included; 0: all
  };
  struct Delta {
    int64_t taps, channels;                 // of the convolution
    int64_t heads, key_width, value_width;  // of the state
  };
  std::map<int, Kv> kv;
  std::map<int, Delta> delta;

  // Layers with equal windows form a group: they drop keys at the same positions and share block
  // tables. Returns the windows of all groups, ascending.
  std::vector<int64_t> windows() const;
  int64_t token_bytes(int64_t window, KvType type) const;  // of one token in all layers of a group
  int64_t state_bytes() const;                             // of one slot in all layers
};

// The place of one sequence of a pass in the caches.
struct CachePlace {
  int64_t past = 0;                         // tokens before this pass
  std::vector<const int32_t*> tables = {};  // for each group: the blocks of its tokens, in order
  int64_t slot = 0;                         // of its states
};

struct DeltaState {
  Tensor conv;    // the latest inputs of the convolution, fp32 [slots, taps - 1, channels]
  Tensor states;  // fp32 [slots, heads, key width, value width]
};

class Caches {
 public:
  // Caches of one sequence, in fp32. A layer's cache is created at its first use and grows with the
  // sequence.
  Caches() = default;
  // Caches of many sequences: blocks[i] blocks for layout.windows()[i], each of `block_tokens`
  // tokens (a multiple of 16), and `slots` slots.
  Caches(const CacheLayout& layout, KvType type, const std::vector<int64_t>& blocks,
         int64_t block_tokens, int64_t slots);

  const CacheLayout& layout() const { return layout_; }
  int64_t bytes(int layer) const;  // of keys and values; 0 for a layer without them

  // The cache of a layer, with room for the pass: row `bounds[i]` is the first row of place i.
  ops::PagedKv& kv(int layer, const CacheLayout::Kv& shape);
  ops::PagedKv& kv(int layer) { return kv_.at(layer); }
  DeltaState& delta(int layer, const CacheLayout::Delta& shape);
  DeltaState& delta(int layer) { return delta_.at(layer); }
  std::vector<ops::PagedSequence> sequences(int layer, const ops::Bounds& bounds,
                                            const std::vector<CachePlace>& places);

  // `from` < 0: fills `to` with zeros.
  void copy_state(int64_t from, int64_t to);

 private:
  // The blocks of one growing sequence.
  struct Growing {
    std::vector<int32_t> table, free;
    int32_t blocks = 0;
  };

  const int32_t* grown_table(int64_t window, int64_t past, int64_t end);

  CacheLayout layout_;
  std::map<int64_t, size_t> groups_;  // by window, when many sequences share the memory
  std::map<int, ops::PagedKv> kv_;
  std::map<int, DeltaState> delta_;
  bool growing_ = true;
  std::map<int64_t, Growing> tables_;  // by window
};

}  // namespace quern::nn
