// Which prompts the caches have seen: a tree whose nodes are blocks of tokens after what their
// parents hold. A path from a root is a beginning of a prompt; what caches keep of it hangs on its
// nodes. Looked up by a keyed hash and found only if the tokens themselves are equal, so that a
// collision, chosen or not, costs time and nothing else.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

namespace quern::engine {

class PrefixTree {
 public:
  using Node = int32_t;
  static constexpr Node kNone = -1;
  using Key = std::array<uint64_t, 2>;
  using Hash = std::function<uint64_t(Node parent, std::span<const int32_t> tokens)>;

  PrefixTree(int64_t block_tokens, Key secret);
  // With a hash of the caller's choice, good or bad.
  PrefixTree(int64_t block_tokens, Hash hash);

  // Prompts of different salts have different roots.
  Node root(const std::string& salt);
  // The node of these tokens, one block of them, after the parent's; kNone if there is none.
  Node find(Node parent, std::span<const int32_t> tokens) const;
  // The same, made if there is none.
  Node child(Node parent, std::span<const int32_t> tokens);

  // A node lives as long as somebody holds it or one of its descendants.
  void hold(Node node) { ++nodes_[static_cast<size_t>(node)].holders; }
  void release(Node node);

  // No lookup finds the node or what is below it from now on, not even under equal tokens. Not for
  // a root.
  void bury(Node node);

  // Nodes that live, roots included.
  int64_t size() const { return static_cast<int64_t>(nodes_.size() - free_.size()); }

 private:
  struct Entry {
    Node parent = kNone;
    int64_t holders = 0;               // children among them
    std::vector<int32_t> tokens = {};  // empty for a root
    uint64_t hash = 0;
    std::string salt = {};  // of a root
    bool buried = false;    // and no longer in by_hash_
  };

  Node make(Entry entry);
  bool is(Node node, Node parent, std::span<const int32_t> tokens) const;
  void erase_hash(Node node);

  int64_t block_tokens_;
  Hash hash_;
  std::vector<Entry> nodes_;
  std::vector<Node> free_;
  std::unordered_multimap<uint64_t, Node> by_hash_;
  std::unordered_map<std::string, Node> roots_;
};

// SipHash-2-4 (Aumasson and Bernstein, 2012) of bytes under a secret key: a client that does not
// know the key cannot choose inputs that collide.
uint64_t siphash(std::span<const uint8_t> bytes, PrefixTree::Key key);

}  // namespace quern::engine
