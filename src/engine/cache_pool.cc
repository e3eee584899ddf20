#include "engine/cache_pool.h"

#include <algorithm>
#include <limits>

#include "base/error.h"

namespace quern::engine {

using Node = PrefixTree::Node;

FreeList::FreeList(int64_t items)
    : next_(static_cast<size_t>(items) + 1, -1), previous_(next_.size(), -1) {
  const auto head = static_cast<int32_t>(items);
  next_.back() = previous_.back() = head;
  for (int32_t item = 0; item < head; ++item) push_back(item);
}

void FreeList::insert(int32_t item, int32_t before) {
  QUERN_CHECK(!contains(item));
  const int32_t after = previous_[static_cast<size_t>(before)];
  next_[static_cast<size_t>(item)] = before;
  previous_[static_cast<size_t>(item)] = after;
  next_[static_cast<size_t>(after)] = previous_[static_cast<size_t>(before)] = item;
  ++size_;
}

void FreeList::erase(int32_t item) {
  QUERN_CHECK(contains(item));
  const int32_t next = next_[static_cast<size_t>(item)],
                previous = previous_[static_cast<size_t>(item)];
  next_[static_cast<size_t>(previous)] = next;
  previous_[static_cast<size_t>(next)] = previous;
  next_[static_cast<size_t>(item)] = -1;
  --size_;
}

int32_t FreeList::pop_front() {
  QUERN_CHECK(size_ > 0);
  const int32_t item = next_.back();
  erase(item);
  return item;
}

CachePool::CachePool(const Options& options, PrefixTree tree)
    : options_(options), tree_(std::move(tree)), states_(options.states) {
  for (const Group& group : options_.groups) groups_.emplace_back(group.blocks);
  const int64_t block = options_.block_tokens;
  options_.snapshot_tokens = (options_.snapshot_tokens + block - 1) / block * block;
}

// ---- items of a shelf

int32_t CachePool::take(Shelf& shelf) {
  const int32_t item = shelf.free.pop_front();
  detach(shelf, item);
  shelf.users[static_cast<size_t>(item)] = 1;
  return item;
}

void CachePool::share(Shelf& shelf, int32_t item) {
  if (shelf.users[static_cast<size_t>(item)]++ == 0) shelf.free.erase(item);
}

void CachePool::give_back(Shelf& shelf, int32_t item) {
  int32_t& users = shelf.users[static_cast<size_t>(item)];
  QUERN_CHECK(users > 0);
  if (--users > 0) return;
  // What can be found again is reused last.
  if (shelf.node[static_cast<size_t>(item)] == PrefixTree::kNone)
    shelf.free.push_front(item);
  else
    shelf.free.push_back(item);
}

void CachePool::attach(Shelf& shelf, int32_t item, Node node) {
  if (static_cast<size_t>(node) >= shelf.by_node.size())
    shelf.by_node.resize(static_cast<size_t>(node) + 1, Lease::kGone);
  shelf.by_node[static_cast<size_t>(node)] = item;
  shelf.node[static_cast<size_t>(item)] = node;
  tree_.hold(node);
}

void CachePool::detach(Shelf& shelf, int32_t item) {
  Node& node = shelf.node[static_cast<size_t>(item)];
  if (node == PrefixTree::kNone) return;
  shelf.by_node[static_cast<size_t>(node)] = Lease::kGone;
  tree_.release(node);
  node = PrefixTree::kNone;
}

int32_t CachePool::item_of(const Shelf& shelf, Node node) {
  const auto index = static_cast<size_t>(node);
  return index < shelf.by_node.size() ? shelf.by_node[index] : Lease::kGone;
}

// ---- finding what is known

// The first block that a query after `tokens` tokens sees.
int64_t CachePool::first_seen_block(size_t group, int64_t tokens) const {
  const int64_t window = options_.groups[group].window;
  return window == 0 ? 0 : std::max<int64_t>(0, tokens - window + 1) / options_.block_tokens;
}

std::vector<Node> CachePool::walk(std::span<const int32_t> tokens, const std::string& salt,
                                  Lookup lookup) {
  const auto block = static_cast<size_t>(options_.block_tokens);
  std::vector<Node> path = {tree_.root(salt)};
  // The last token is computed always: its logits are wanted.
  for (size_t end = block; lookup == Lookup::yes && end < tokens.size(); end += block) {
    const Node next = tree_.find(path.back(), tokens.subspan(end - block, block));
    if (next == PrefixTree::kNone) break;
    path.push_back(next);
  }
  return path;
}

int64_t CachePool::usable_blocks(const std::vector<Node>& path, bool with_state) const {
  std::vector<int64_t> run(groups_.size(), 0);  // of blocks without a gap, up to here
  int64_t usable = 0;
  for (int64_t depth = 1; depth < std::ssize(path); ++depth) {
    const Node node = path[static_cast<size_t>(depth)];
    bool all = !with_state || options_.states == 0 || item_of(states_, node) != Lease::kGone;
    for (size_t g = 0; g < groups_.size(); ++g) {
      run[g] = item_of(groups_[g], node) == Lease::kGone ? 0 : run[g] + 1;
      all &= run[g] >= depth - first_seen_block(g, depth * options_.block_tokens);
    }
    if (all) usable = depth;
  }
  return usable;
}

// ---- leases

// The slot is filled when it is certain that the sequence can run: a state may be large.
void CachePool::open_state(Lease& lease, int32_t snapshot) {
  if (snapshot != Lease::kGone) share(states_, snapshot);
  if (states_.free.size() == 0) {  // the snapshot itself becomes the state
    detach(states_, snapshot);
    lease.state = snapshot;
    return;
  }
  lease.state = take(states_);
  lease.fresh_ = true;
  lease.restored_ = snapshot;
}

void CachePool::fill_state(Lease& lease) {
  if (!lease.fresh_) return;
  copies_.push_back({lease.restored_, lease.state});
  if (lease.restored_ != Lease::kGone) give_back(states_, lease.restored_);
  lease.fresh_ = false;
  lease.restored_ = Lease::kGone;
}

std::optional<int64_t> CachePool::open(Lease& lease, std::span<const int32_t> tokens,
                                       const std::string& salt, Lookup lookup) {
  QUERN_CHECK(!lease.open_);
  if (options_.states > 0 && states_.free.size() == 0) return std::nullopt;
  std::vector<Node> path = walk(tokens, salt, options_.prefix_caching ? lookup : Lookup::no);
  const int64_t usable = usable_blocks(path, /*with_state=*/true);
  lease.junction_ = usable_blocks(path, /*with_state=*/false) * options_.block_tokens;
  path.resize(static_cast<size_t>(usable) + 1);
  tree_.hold(path.back());
  lease.open_ = true;
  lease.known_ = std::ssize(tokens);
  lease.seen_ = usable * options_.block_tokens;
  lease.tables.assign(groups_.size(), {});
  for (size_t g = 0; g < groups_.size(); ++g) {
    const int64_t first = first_seen_block(g, lease.seen_);
    for (int64_t block = 0; block < usable; ++block) {
      const Node node = path[static_cast<size_t>(block) + 1];
      lease.tables[g].push_back(block < first ? Lease::kGone : item_of(groups_[g], node));
      if (block >= first) share(groups_[g], lease.tables[g].back());
    }
  }
  if (options_.states > 0)
    open_state(lease, usable > 0 ? item_of(states_, path.back()) : Lease::kGone);
  lease.path_ = std::move(path);
  return lease.seen_;
}

bool CachePool::grow(Lease& lease, int64_t tokens) {
  QUERN_CHECK(lease.open_);
  const int64_t blocks = (tokens + options_.block_tokens - 1) / options_.block_tokens;
  for (size_t g = 0; g < groups_.size(); ++g)
    if (blocks - std::ssize(lease.tables[g]) > groups_[g].free.size()) return false;
  for (size_t g = 0; g < groups_.size(); ++g)
    while (std::ssize(lease.tables[g]) < blocks) lease.tables[g].push_back(take(groups_[g]));
  fill_state(lease);
  return true;
}

void CachePool::make_findable(Lease& lease, std::span<const int32_t> tokens) {
  const auto length = static_cast<size_t>(options_.block_tokens);
  for (size_t block = lease.path_.size() - 1; (block + 1) * length <= tokens.size(); ++block) {
    const Node node = tree_.child(lease.path_.back(), tokens.subspan(block * length, length));
    tree_.hold(node);
    tree_.release(lease.path_.back());
    lease.path_.push_back(node);
    for (size_t g = 0; g < groups_.size(); ++g) {
      const int32_t item = lease.tables[g][block];
      // Another sequence may have made the same block at the same time.
      if (item != Lease::kGone && item_of(groups_[g], node) == Lease::kGone)
        attach(groups_[g], item, node);
    }
  }
}

void CachePool::commit(Lease& lease, std::span<const int32_t> tokens) {
  QUERN_CHECK(lease.open_ && std::ssize(tokens) >= lease.seen_);
  lease.seen_ = std::ssize(tokens);
  if (options_.prefix_caching) {
    make_findable(lease, tokens);
    if (wants_snapshot(lease)) snapshot(lease);
  }
  forget(lease);
}

void CachePool::forget(Lease& lease) {
  for (size_t g = 0; g < groups_.size(); ++g) {
    std::vector<int32_t>& table = lease.tables[g];
    for (int64_t block = first_seen_block(g, lease.seen_) - 1; block >= 0; --block) {
      int32_t& item = table[static_cast<size_t>(block)];
      if (item == Lease::kGone) break;
      give_back(groups_[g], item);
      item = Lease::kGone;
    }
  }
}

void CachePool::forget_path(Lease& lease) {
  QUERN_CHECK(lease.open_);
  for (const Node node : std::span(lease.path_).subspan(1)) {  // the root holds nothing
    for (Shelf& shelf : groups_)
      if (const int32_t item = item_of(shelf, node); item != Lease::kGone) detach(shelf, item);
    if (const int32_t item = item_of(states_, node); item != Lease::kGone) detach(states_, item);
    tree_.bury(node);
  }
}

void CachePool::close(Lease& lease) {
  QUERN_CHECK(lease.open_);
  // The end of a prompt is needed less often than its beginning, so it is reused first.
  for (size_t g = 0; g < groups_.size(); ++g)
    for (auto item = lease.tables[g].rbegin(); item != lease.tables[g].rend(); ++item)
      if (*item != Lease::kGone) give_back(groups_[g], *item);
  if (lease.restored_ != Lease::kGone) give_back(states_, lease.restored_);
  if (options_.states > 0) give_back(states_, lease.state);
  tree_.release(lease.path_.back());
  lease = Lease();
}

void CachePool::forget_states(std::span<const StateCopy> copies) {
  for (const StateCopy& copy : copies) detach(states_, copy.to);
}

// ---- snapshots of recurrent state

// Where a prompt is likely to be taken up again: before its last token, where another prompt
// parts from it, every so often if it is long, and at the newest block of the answer.
bool CachePool::wants_snapshot(const Lease& lease) const {
  const int64_t seen = lease.seen_, block = options_.block_tokens;
  if (options_.states == 0 || seen == 0 || seen % block != 0) return false;
  return seen >= lease.known_ || seen == (lease.known_ - 1) / block * block ||
         seen == lease.junction_ || seen % options_.snapshot_tokens == 0;
}

int64_t CachePool::next_stop(const Lease& lease) const {
  constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
  if (options_.states == 0 || !options_.prefix_caching) return kNone;
  const int64_t interval = options_.snapshot_tokens;
  int64_t stop = kNone;
  for (int64_t wanted : {(lease.known_ - 1) / options_.block_tokens * options_.block_tokens,
                         lease.junction_, (lease.seen_ / interval + 1) * interval})
    if (wanted > lease.seen_ && wanted < lease.known_) stop = std::min(stop, wanted);
  return stop;
}

void CachePool::snapshot(Lease& lease) {
  const Node node = lease.path_.back();
  const int32_t known = item_of(states_, node);
  if (known != Lease::kGone) {  // it has been of use again; an open lease may keep it
    share(states_, known);
    give_back(states_, known);
    return;
  }
  const bool answer = lease.seen_ >= lease.known_;
  if (answer && lease.rolling_ != PrefixTree::kNone) {
    const int32_t older = item_of(states_, lease.rolling_);
    if (older != Lease::kGone) {
      share(states_, older);
      detach(states_, older);
      give_back(states_, older);
    }
  }
  if (states_.free.size() == 0) return;
  const int32_t slot = take(states_);
  copies_.push_back({lease.state, slot});
  attach(states_, slot, node);
  give_back(states_, slot);
  if (answer) lease.rolling_ = node;
}

}  // namespace quern::engine
