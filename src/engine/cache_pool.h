// Who owns which piece of the caches' memory: blocks of keys and values, in groups of layers that
// forget at the same pace, and slots for the states of recurrent layers. What is no longer in use
// can be found by its tokens until its room is needed. This is bookkeeping only: the memory itself
// belongs to nn.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/batch.h"
#include "engine/prefix_tree.h"

namespace quern::engine {

// Unused blocks, the least recently used first: a doubly linked list in an array.
class FreeList {
 public:
  explicit FreeList(int64_t items);

  int64_t size() const { return size_; }
  bool contains(int32_t item) const { return next_[static_cast<size_t>(item)] >= 0; }
  void push_front(int32_t item) { insert(item, next_.back()); }
  void push_back(int32_t item) { insert(item, static_cast<int32_t>(next_.size()) - 1); }
  void erase(int32_t item);
  int32_t pop_front();

 private:
  void insert(int32_t item, int32_t before);

  std::vector<int32_t> next_, previous_;  // the last entry is the list's head; -1: not in the list
  int64_t size_ = 0;
};

// The piece of the caches that one sequence holds, made and given back by a CachePool.
struct Lease {
  // By group: the blocks of its tokens in order, kGone where the layers have forgotten them.
  std::vector<std::vector<int32_t>> tables;
  int32_t state = kGone;  // slot of the recurrent layers' state

  static constexpr int32_t kGone = -1;

 private:
  friend class CachePool;
  bool open_ = false;
  int64_t known_ = 0;                   // tokens of the sequence when the lease was opened
  int64_t seen_ = 0;                    // of them and those after, how many the caches hold
  std::vector<PrefixTree::Node> path_;  // of the full blocks, the root first; the last one is held
  int64_t junction_ = 0;                // tokens after which a known prompt parts from this one
  bool fresh_ = false;        // the state is still to be filled: from `restored_`, or with zeros
  int32_t restored_ = kGone;  // a snapshot that is kept for it
  PrefixTree::Node rolling_ = PrefixTree::kNone;  // has the newest snapshot of the answer
};

class CachePool {
 public:
  struct Group {
    int64_t window = 0;  // keys that a query sees, itself included; 0: all
    int64_t blocks = 0;
  };
  struct Options {
    int64_t block_tokens = 16;
    std::vector<Group> groups;
    int64_t states = 0;  // slots; 0: the model has no recurrent layers
    bool prefix_caching = true;
    // Prompts longer than this leave a snapshot every so many tokens, rounded up to whole blocks.
    int64_t snapshot_tokens = 2048;
  };

  CachePool(const Options& options, PrefixTree tree);

  // Takes over the longest known beginning of `tokens` but the last, in whole blocks, and returns
  // its length; a lookup that is not wanted finds nothing. Nothing if no state slot is left.
  enum class Lookup { no, yes };
  std::optional<int64_t> open(Lease& lease, std::span<const int32_t> tokens,
                              const std::string& salt, Lookup lookup);
  // Room for `tokens` tokens in all, and the state that they go on from; false and no change if
  // there is none.
  bool grow(Lease& lease, int64_t tokens);
  // Where the next pass ends at the latest, in tokens of the sequence: a snapshot is wanted there.
  int64_t next_stop(const Lease& lease) const;
  // A pass has made the caches hold `tokens`, all from the first on: full blocks can be found from
  // now on, and blocks that the layers forget are given back.
  void commit(Lease& lease, std::span<const int32_t> tokens);
  // What the lease holds, and what other sequences computed after it, may be damaged: no lookup
  // finds it again. Open leases keep what they hold, and no lookup finds what they add.
  void forget_path(Lease& lease);
  // Gives everything back.
  void close(Lease& lease);

  // What is to be done with slots of recurrent state, in this order, before anything is computed on
  // what the leases hold now. Each copy is handed out once.
  std::vector<StateCopy> take_copies() { return std::exchange(copies_, {}); }
  // These copies may not have been done: no lookup finds the snapshots that they were to make.
  void forget_states(std::span<const StateCopy> copies);

  int64_t block_tokens() const { return options_.block_tokens; }
  bool prefix_caching() const { return options_.prefix_caching; }
  int64_t blocks(size_t group) const { return options_.groups[group].blocks; }
  int64_t free_blocks(size_t group) const { return groups_[group].free.size(); }
  int64_t free_states() const { return states_.free.size(); }
  int64_t known_blocks() const { return tree_.size(); }  // findable, and the roots above them

 private:
  // Blocks of a group, or slots of states: each is used, free and findable, or free.
  struct Shelf {
    explicit Shelf(int64_t items)
        : free(items), users(static_cast<size_t>(items)), node(static_cast<size_t>(items), -1) {}
    FreeList free;
    std::vector<int32_t> users;
    std::vector<PrefixTree::Node> node;  // whose tokens the item holds; kNone: no lookup finds it
    std::vector<int32_t> by_node;        // the item that holds them, or kGone
  };

  int32_t take(Shelf& shelf);
  void share(Shelf& shelf, int32_t item);
  void give_back(Shelf& shelf, int32_t item);
  void attach(Shelf& shelf, int32_t item, PrefixTree::Node node);
  void detach(Shelf& shelf, int32_t item);
  static int32_t item_of(const Shelf& shelf, PrefixTree::Node node);

  int64_t first_seen_block(size_t group, int64_t tokens) const;
  std::vector<PrefixTree::Node> walk(std::span<const int32_t> tokens, const std::string& salt,
                                     Lookup lookup);
  // Of a path, how many blocks all groups can go on after; with or without the states' consent.
  int64_t usable_blocks(const std::vector<PrefixTree::Node>& path, bool with_state) const;
  void open_state(Lease& lease, int32_t snapshot);
  void fill_state(Lease& lease);
  void make_findable(Lease& lease, std::span<const int32_t> tokens);
  bool wants_snapshot(const Lease& lease) const;
  void snapshot(Lease& lease);
  void forget(Lease& lease);

  Options options_;
  PrefixTree tree_;
  std::vector<StateCopy> copies_;
  std::vector<Shelf> groups_;
  Shelf states_;
};

}  // namespace quern::engine
