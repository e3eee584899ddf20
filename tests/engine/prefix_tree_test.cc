#include "engine/prefix_tree.h"

#include <gtest/gtest.h>

#include <numeric>

namespace quern::engine {
namespace {

TEST(SipHashTest, EqualsItsAuthors) {
  std::vector<uint8_t> bytes(15);
  std::iota(bytes.begin(), bytes.end(), uint8_t{0});
  const PrefixTree::Key key = {0x0706050403020100, 0x0f0e0d0c0b0a0908};
  EXPECT_EQ(siphash(bytes, key), 0xa129ca6149be45e5);  // appendix A of the paper
  EXPECT_EQ(siphash({}, key), 0x726fdb47dd0e0e31);
}

class PrefixTreeTest : public testing::TestWithParam<bool> {
 protected:
  // With the real hash, and with one under which everything collides.
  PrefixTree tree_ =
      GetParam()
          ? PrefixTree(2, PrefixTree::Key{1, 2})
          : PrefixTree(2, [](PrefixTree::Node, std::span<const int32_t>) { return uint64_t{7}; });
};

TEST_P(PrefixTreeTest, FindsEqualTokensBelowEqualParentsOnly) {
  const auto root = tree_.root(""), salted = tree_.root("salt");
  EXPECT_NE(root, salted);
  EXPECT_EQ(tree_.root(""), root);
  const std::vector<int32_t> a = {1, 2}, b = {2, 1};
  const auto first = tree_.child(root, a);
  EXPECT_EQ(tree_.child(root, a), first);
  EXPECT_EQ(tree_.find(root, a), first);
  EXPECT_EQ(tree_.find(root, b), PrefixTree::kNone);
  EXPECT_EQ(tree_.find(salted, a), PrefixTree::kNone);
  EXPECT_EQ(tree_.find(first, a), PrefixTree::kNone);
  EXPECT_NE(tree_.child(first, a), first);
}

TEST_P(PrefixTreeTest, ANodeLivesAsLongAsItIsHeldOrHasChildren) {
  const std::vector<int32_t> a = {1, 2}, b = {3, 4};
  const auto root = tree_.root("");
  const auto parent = tree_.child(root, a);
  const auto child = tree_.child(parent, b);
  tree_.hold(parent);
  tree_.hold(child);
  EXPECT_EQ(tree_.size(), 3);
  tree_.release(parent);
  EXPECT_EQ(tree_.find(root, a), parent);
  tree_.release(child);
  EXPECT_EQ(tree_.size(), 0);
  const auto again = tree_.root("");
  EXPECT_EQ(tree_.find(again, a), PrefixTree::kNone);
}

TEST_P(PrefixTreeTest, ABuriedNodeIsNotFoundNorWhatIsBelowIt) {
  const std::vector<int32_t> a = {1, 2}, b = {3, 4};
  const auto root = tree_.root("");
  tree_.hold(root);
  const auto parent = tree_.child(root, a), child = tree_.child(parent, b);
  tree_.hold(child);
  tree_.bury(parent);
  tree_.bury(parent);
  EXPECT_EQ(tree_.find(root, a), PrefixTree::kNone);
  const auto again = tree_.child(root, a);
  EXPECT_NE(again, parent);
  EXPECT_EQ(tree_.find(again, b), PrefixTree::kNone);
  tree_.hold(again);
  tree_.release(child);  // and with it the buried parent
  EXPECT_EQ(tree_.find(root, a), again);
  tree_.release(again);
  tree_.release(root);
  EXPECT_EQ(tree_.size(), 0);
}

INSTANTIATE_TEST_SUITE_P(Hashes, PrefixTreeTest, testing::Bool(), [](const auto& info) {
  return info.param ? std::string("Keyed") : std::string("Colliding");
});

}  // namespace
}  // namespace quern::engine
