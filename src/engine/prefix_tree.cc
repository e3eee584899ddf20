#include "engine/prefix_tree.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace quern::engine {
namespace {

struct SipState {
  uint64_t v0, v1, v2, v3;

  void round() {
    v0 += v1;
    v1 = std::rotl(v1, 13) ^ v0;
    v0 = std::rotl(v0, 32);
    v2 += v3;
    v3 = std::rotl(v3, 16) ^ v2;
    v0 += v3;
    v3 = std::rotl(v3, 21) ^ v0;
    v2 += v1;
    v1 = std::rotl(v1, 17) ^ v2;
    v2 = std::rotl(v2, 32);
  }
  void add(uint64_t word) {
    v3 ^= word;
    round();
    round();
    v0 ^= word;
  }
};

uint64_t keyed_hash(PrefixTree::Node parent, std::span<const int32_t> tokens,
                    PrefixTree::Key secret) {
  std::vector<int32_t> words = {parent};
  words.insert(words.end(), tokens.begin(), tokens.end());
  return siphash({reinterpret_cast<const uint8_t*>(words.data()), words.size() * 4}, secret);
}

}  // namespace

uint64_t siphash(std::span<const uint8_t> bytes, PrefixTree::Key key) {
  SipState state{0x736f6d6570736575 ^ key[0], 0x646f72616e646f6d ^ key[1],
                 0x6c7967656e657261 ^ key[0], 0x7465646279746573 ^ key[1]};
  const size_t whole = bytes.size() / 8 * 8;
  for (size_t i = 0; i < whole; i += 8) {
    uint64_t word;
    std::memcpy(&word, bytes.data() + i, 8);
    state.add(word);
  }
  uint64_t last = uint64_t{bytes.size()} << 56;
  for (size_t i = whole; i < bytes.size(); ++i) last |= uint64_t{bytes[i]} << (i - whole) * 8;
  state.add(last);
  state.v2 ^= 0xff;
  for (int i = 0; i < 4; ++i) state.round();
  return state.v0 ^ state.v1 ^ state.v2 ^ state.v3;
}

PrefixTree::PrefixTree(int64_t block_tokens, Key secret)
    : PrefixTree(block_tokens, [secret](Node parent, std::span<const int32_t> tokens) {
        return keyed_hash(parent, tokens, secret);
      }) {}

PrefixTree::PrefixTree(int64_t block_tokens, Hash hash)
    : block_tokens_(block_tokens), hash_(std::move(hash)) {}

PrefixTree::Node PrefixTree::make(Entry entry) {
  if (free_.empty()) {
    nodes_.push_back(std::move(entry));
    return static_cast<Node>(nodes_.size() - 1);
  }
  const Node node = free_.back();
  free_.pop_back();
  nodes_[static_cast<size_t>(node)] = std::move(entry);
  return node;
}

PrefixTree::Node PrefixTree::root(const std::string& salt) {
  const auto found = roots_.find(salt);
  if (found != roots_.end()) return found->second;
  return roots_[salt] = make({.salt = salt});
}

bool PrefixTree::is(Node node, Node parent, std::span<const int32_t> tokens) const {
  const Entry& entry = nodes_[static_cast<size_t>(node)];
  return entry.parent == parent && std::ranges::equal(entry.tokens, tokens);
}

PrefixTree::Node PrefixTree::find(Node parent, std::span<const int32_t> tokens) const {
  const auto [first, last] = by_hash_.equal_range(hash_(parent, tokens));
  for (auto candidate = first; candidate != last; ++candidate)
    if (is(candidate->second, parent, tokens)) return candidate->second;
  return kNone;
}

PrefixTree::Node PrefixTree::child(Node parent, std::span<const int32_t> tokens) {
  QUERN_CHECK(std::ssize(tokens) == block_tokens_);
  const Node found = find(parent, tokens);
  if (found != kNone) return found;
  const uint64_t hash = hash_(parent, tokens);
  const Node node =
      make({.parent = parent, .tokens = {tokens.begin(), tokens.end()}, .hash = hash});
  hold(parent);
  by_hash_.emplace(hash, node);
  return node;
}

void PrefixTree::erase_hash(Node node) {
  auto [first, last] = by_hash_.equal_range(nodes_[static_cast<size_t>(node)].hash);
  while (first->second != node) ++first;
  by_hash_.erase(first);
}

void PrefixTree::bury(Node node) {
  Entry& entry = nodes_[static_cast<size_t>(node)];
  QUERN_CHECK(entry.parent != kNone);
  if (std::exchange(entry.buried, true)) return;
  erase_hash(node);
}

void PrefixTree::release(Node node) {
  while (node != kNone) {
    Entry& entry = nodes_[static_cast<size_t>(node)];
    QUERN_CHECK(entry.holders > 0);
    if (--entry.holders > 0) return;
    const Node parent = entry.parent;
    if (parent == kNone)
      roots_.erase(entry.salt);
    else if (!entry.buried)
      erase_hash(node);
    entry = {};
    free_.push_back(node);
    node = parent;
  }
}

}  // namespace quern::engine
