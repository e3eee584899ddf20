#include "engine/cache_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>

#include "base/random.h"

namespace quern::engine {
namespace {

constexpr int64_t kBlock = 16;

std::vector<int32_t> counted(int64_t tokens, int32_t first = 0) {
  std::vector<int32_t> all;
  for (int64_t i = 0; i < tokens; ++i) all.push_back(first + static_cast<int32_t>(i));
  return all;
}

using Hash = PrefixTree::Hash;
const Hash kColliding = [](PrefixTree::Node, std::span<const int32_t>) { return uint64_t{0}; };

// A pool with memory that remembers what was put there: blocks and states hold the tokens that they
// were computed from, so that a wrong block, a stale one or a wrong state is seen at once.
class Memory {
 public:
  explicit Memory(CachePool::Options options, const Hash& hash = {})
      : options_(options),
        blocks_(options.groups.size()),
        states_(static_cast<size_t>(options.states)),
        block_(options.block_tokens),
        pool_(options,
              hash ? PrefixTree(block_, hash) : PrefixTree(block_, PrefixTree::Key{3, 5})) {
    for (size_t g = 0; g < blocks_.size(); ++g)
      blocks_[g].resize(static_cast<size_t>(options.groups[g].blocks));
  }

  // Computes tokens [seen, end) after checking that the layers find all that they look at.
  void compute(Lease& lease, const std::vector<int32_t>& tokens, int64_t seen, int64_t end) {
    for (const auto [from, to] : pool_.take_copies())
      states_[static_cast<size_t>(to)] =
          from == Lease::kGone ? std::vector<int32_t>() : states_[static_cast<size_t>(from)];
    for (size_t g = 0; g < blocks_.size(); ++g) {
      const int64_t window = options_.groups[g].window;
      for (int64_t t = window ? std::max<int64_t>(0, seen - window + 1) : 0; t < seen; ++t)
        expect_token(lease, g, tokens, t);
      for (int64_t t = seen; t < end; ++t) {
        auto& block = at(lease, g, t);
        block.resize(static_cast<size_t>(t % block_));
        block.push_back(tokens[static_cast<size_t>(t)]);
      }
    }
    if (options_.states == 0) return;
    auto& state = states_[static_cast<size_t>(lease.state)];
    ASSERT_EQ(state, std::vector<int32_t>(tokens.begin(), tokens.begin() + seen));
    state.assign(tokens.begin(), tokens.begin() + end);
  }

  int64_t free_everywhere() const {
    int64_t all = pool_.free_states();
    for (size_t g = 0; g < blocks_.size(); ++g) all += pool_.free_blocks(g);
    return all;
  }

  CachePool& pool() { return pool_; }

 private:
  std::vector<int32_t>& at(const Lease& lease, size_t group, int64_t token) {
    const int32_t item = lease.tables[group][static_cast<size_t>(token / block_)];
    EXPECT_NE(item, Lease::kGone) << "group " << group << " token " << token;
    return blocks_[group][static_cast<size_t>(item)];
  }
  void expect_token(const Lease& lease, size_t group, const std::vector<int32_t>& tokens,
                    int64_t token) {
    const auto& block = at(lease, group, token);
    ASSERT_GT(std::ssize(block), token % block_);
    ASSERT_EQ(block[static_cast<size_t>(token % block_)], tokens[static_cast<size_t>(token)]);
  }

  CachePool::Options options_;
  std::vector<std::vector<std::vector<int32_t>>> blocks_;
  std::vector<std::vector<int32_t>> states_;
  int64_t block_;
  CachePool pool_;
};

// Opens, computes all of the tokens as the scheduler does, and closes. Returns what was known.
int64_t visit(Memory& memory, const std::vector<int32_t>& tokens, const std::string& salt = "") {
  Lease lease;
  CachePool& pool = memory.pool();
  const int64_t known = *pool.open(lease, tokens, salt, CachePool::Lookup::yes);
  for (int64_t seen = known; seen < std::ssize(tokens);) {
    const int64_t end = std::min<int64_t>(std::ssize(tokens), pool.next_stop(lease));
    EXPECT_TRUE(pool.grow(lease, end));
    memory.compute(lease, tokens, seen, end);
    pool.commit(lease, std::span(tokens).first(static_cast<size_t>(end)));
    seen = end;
  }
  pool.close(lease);
  return known;
}

TEST(CachePoolTest, KnowsWholeBlocksButTheLastToken) {
  Memory memory({.groups = {{.blocks = 8}}});
  EXPECT_EQ(visit(memory, counted(40)), 0);
  EXPECT_EQ(visit(memory, counted(40)), 32);
  EXPECT_EQ(visit(memory, counted(32)), 16);
  EXPECT_EQ(visit(memory, counted(33)), 32);
  EXPECT_EQ(visit(memory, counted(40, 1)), 0);
  EXPECT_EQ(visit(memory, counted(40), "another key"), 0);
  EXPECT_EQ(memory.pool().free_blocks(0), 8);
}

TEST(CachePoolTest, ForgetsAPathAndWhatFollowsIt) {
  Memory memory({.groups = {{.blocks = 20}, {.window = 18, .blocks = 20}}, .states = 6});
  CachePool& pool = memory.pool();
  const int64_t free = memory.free_everywhere();
  const auto compute = [&](Lease& lease, const std::vector<int32_t>& tokens, int64_t seen,
                           int64_t end) {
    ASSERT_TRUE(pool.grow(lease, end));
    memory.compute(lease, tokens, seen, end);
    pool.commit(lease, std::span(tokens).first(static_cast<size_t>(end)));
  };
  const std::vector<int32_t> tokens = counted(100);
  visit(memory, counted(40, 500));
  Lease lease, other;
  const auto first = std::span(tokens).first(33);  // the state is kept before its last token
  EXPECT_EQ(pool.open(lease, first, "", CachePool::Lookup::yes), 0);
  compute(lease, tokens, 0, 32);
  compute(lease, tokens, 32, 40);
  EXPECT_EQ(pool.open(other, first, "", CachePool::Lookup::yes), 32);
  pool.forget_path(lease);
  EXPECT_EQ(visit(memory, tokens), 0) << "found again while it is open";
  pool.forget_path(lease);  // nothing happens to what came after
  pool.close(lease);
  compute(other, tokens, 32, 48);  // goes on, found by nobody
  pool.close(other);
  EXPECT_EQ(visit(memory, tokens), 96);
  EXPECT_EQ(visit(memory, counted(40, 500)), 32);
  EXPECT_EQ(memory.free_everywhere(), free);
}

TEST(CachePoolTest, KnowsNothingWhenNotAsked) {
  Memory off({.groups = {{.blocks = 8}}, .prefix_caching = false});
  visit(off, counted(40));
  EXPECT_EQ(visit(off, counted(40)), 0);
  Memory on({.groups = {{.blocks = 8}}});
  visit(on, counted(40));
  Lease lease;
  EXPECT_EQ(on.pool().open(lease, counted(40), "", CachePool::Lookup::no), 0);
  on.pool().close(lease);
}

TEST(CachePoolTest, ReusesTheEndOfTheOldestPromptFirst) {
  Memory memory({.groups = {{.blocks = 6}}});
  visit(memory, counted(48, 0));
  visit(memory, counted(48, 1000));
  visit(memory, counted(16, 2000));  // takes one block: the third of the first prompt
  for (const auto& [first, known] : {std::pair{0, 32}, {1000, 48}, {2000, 16}}) {
    Lease lease;
    EXPECT_EQ(memory.pool().open(lease, counted(64, first), "", CachePool::Lookup::yes), known);
    memory.pool().close(lease);
  }
}

TEST(CachePoolTest, RefusesWhatDoesNotFitAndChangesNothing) {
  Memory memory({.groups = {{.blocks = 4}, {.window = 20, .blocks = 2}}});
  Lease lease;
  ASSERT_TRUE(memory.pool().open(lease, counted(64), "", CachePool::Lookup::yes));
  EXPECT_FALSE(memory.pool().grow(lease, 33));
  EXPECT_EQ(memory.pool().free_blocks(0), 4);
  EXPECT_TRUE(memory.pool().grow(lease, 32));
  EXPECT_EQ(memory.pool().free_blocks(0), 2);
  EXPECT_EQ(memory.pool().free_blocks(1), 0);
  memory.pool().close(lease);
  EXPECT_EQ(memory.free_everywhere(), 6);
}

TEST(CachePoolTest, WindowsGiveBackWhatTheyForget) {
  Memory memory({.groups = {{.blocks = 20}, {.window = 17, .blocks = 4}}});
  Lease lease;
  const auto tokens = counted(320);
  memory.pool().open(lease, tokens, "", CachePool::Lookup::yes);
  for (int64_t seen = 0; seen < 320; seen += 10) {
    ASSERT_TRUE(memory.pool().grow(lease, seen + 10));
    memory.compute(lease, tokens, seen, seen + 10);
    memory.pool().commit(lease, std::span(tokens).first(static_cast<size_t>(seen) + 10));
  }
  memory.pool().close(lease);
  // The window's blocks that are still there end at 320; the same prompt may go on from 304, which
  // needs keys from 288 on.
  EXPECT_EQ(visit(memory, tokens), 304);
}

TEST(CachePoolTest, StatesAreKnownAtTheEndOfThePromptAndOfTheAnswer) {
  Memory memory({.groups = {{.blocks = 40}}, .states = 6});
  EXPECT_EQ(visit(memory, counted(70)), 0);
  EXPECT_EQ(visit(memory, counted(70)), 64);
  // An answer goes on to 90: the next turn begins at 80.
  Lease lease;
  auto tokens = counted(90);
  const std::span all(tokens);
  memory.pool().open(lease, all.first(70), "", CachePool::Lookup::yes);
  for (int64_t seen = 64; seen < 90; ++seen) {
    ASSERT_TRUE(memory.pool().grow(lease, seen + 1));
    memory.compute(lease, tokens, seen, seen + 1);
    memory.pool().commit(lease, all.first(static_cast<size_t>(seen) + 1));
  }
  memory.pool().close(lease);
  EXPECT_EQ(visit(memory, counted(100)), 80);
  EXPECT_EQ(memory.pool().free_states(), 6);
}

TEST(CachePoolTest, StatesAreKnownWherePromptsPart) {
  Memory memory({.groups = {{.blocks = 40}}, .states = 6});
  auto asking = [](int32_t question) {  // 48 common tokens, then 30 of one's own
    auto tokens = counted(48);
    const auto own = counted(30, question);
    tokens.insert(tokens.end(), own.begin(), own.end());
    return tokens;
  };
  EXPECT_EQ(visit(memory, asking(1000)), 0);
  EXPECT_EQ(visit(memory, asking(2000)), 0);  // the blocks are known, the state after them is not
  EXPECT_EQ(visit(memory, asking(3000)), 48);
}

TEST(CachePoolTest, LongPromptsLeaveSnapshotsOnTheirWay) {
  Memory memory({.groups = {{.blocks = 40}}, .states = 8, .snapshot_tokens = 64});
  visit(memory, counted(200));
  auto other = counted(150);
  other.back() = -1;
  other[140] = -1;  // known up to 128
  EXPECT_EQ(visit(memory, other), 128);
}

TEST(CachePoolTest, ALoneSlotTurnsFromSnapshotToState) {
  Memory memory({.groups = {{.blocks = 8}}, .states = 1});
  visit(memory, counted(40));
  EXPECT_EQ(visit(memory, counted(40)), 0);  // nowhere to keep a snapshot beside the running state
  Lease first, second;
  ASSERT_TRUE(memory.pool().open(first, counted(5), "", CachePool::Lookup::yes));
  EXPECT_FALSE(memory.pool().open(second, counted(5), "", CachePool::Lookup::yes));
  memory.pool().close(first);
}

TEST(CachePoolTest, AStateIsCopiedOnlyWhenTheSequenceCanRun) {
  CachePool pool({.groups = {{.blocks = 2}}, .states = 3},
                 PrefixTree(kBlock, PrefixTree::Key{3, 5}));
  Lease running, waiting;
  pool.open(running, counted(20), "", CachePool::Lookup::yes);
  ASSERT_TRUE(pool.grow(running, 20));
  EXPECT_EQ(pool.take_copies(), (std::vector<StateCopy>{{Lease::kGone, running.state}}));
  for (int attempt = 0; attempt < 3; ++attempt) {
    pool.open(waiting, counted(20, 50), "", CachePool::Lookup::yes);
    EXPECT_FALSE(pool.grow(waiting, 20));
    pool.close(waiting);
  }
  EXPECT_TRUE(pool.take_copies().empty());
  EXPECT_EQ(pool.free_states(), 2);
  pool.close(running);
}

TEST(CachePoolTest, AStateWhoseCopyFailedIsNotFound) {
  Memory memory({.groups = {{.blocks = 20}}, .states = 4});
  CachePool& pool = memory.pool();
  const std::vector<int32_t> tokens = counted(40);
  Lease lease;
  pool.open(lease, tokens, "", CachePool::Lookup::yes);
  ASSERT_TRUE(pool.grow(lease, 32));
  memory.compute(lease, tokens, 0, 32);
  pool.commit(lease, std::span(tokens).first(32));  // and a snapshot is wanted
  const std::vector<StateCopy> lost = pool.take_copies();
  ASSERT_EQ(lost.size(), 1u);
  pool.close(lease);
  pool.forget_states(lost);
  EXPECT_EQ(visit(memory, tokens), 0);
  EXPECT_EQ(visit(memory, tokens), 32);
}

struct Setting {
  const char* name;
  CachePool::Options options;
  Hash hash;
};

class RandomSchedules : public testing::TestWithParam<Setting> {};

// Many sequences of few different beginnings come, grow by random pieces, and go.
TEST_P(RandomSchedules, EveryBlockHoldsWhatItShouldAndComesBackOnce) {
  const Setting& setting = GetParam();
  Memory memory(setting.options, setting.hash);
  CachePool& pool = memory.pool();
  NumpyRandom random(11);
  auto below = [&](int64_t bound) {
    return static_cast<int64_t>(random.next() % static_cast<uint64_t>(bound));
  };
  struct Running {
    Lease lease;
    std::vector<int32_t> tokens;
    int64_t seen;
  };
  std::vector<std::unique_ptr<Running>> running;
  const int64_t all = memory.free_everywhere();
  int64_t hits = 0, refusals = 0;
  for (int step = 0; step < 6000; ++step) {
    if (running.size() < 4 && below(3) == 0) {
      auto next = std::make_unique<Running>();
      for (int64_t part = 0, parts = 1 + below(5); part < parts; ++part) {
        const int64_t length = below(3) ? 1 + below(40) : 2 * setting.options.block_tokens;
        const auto tokens = counted(length, static_cast<int32_t>(below(2)) * 500);
        next->tokens.insert(next->tokens.end(), tokens.begin(), tokens.end());
      }
      const auto known = pool.open(next->lease, next->tokens, below(4) ? "" : "salt",
                                   below(8) ? CachePool::Lookup::yes : CachePool::Lookup::no);
      if (!known) continue;
      ASSERT_LT(*known, std::ssize(next->tokens));
      hits += *known;
      next->seen = *known;
      running.push_back(std::move(next));
    } else if (!running.empty()) {
      const size_t which = static_cast<size_t>(below(std::ssize(running)));
      Running& r = *running[which];
      if (r.seen == std::ssize(r.tokens))  // the next token of an answer
        r.tokens.push_back(static_cast<int32_t>(below(2)));
      const int64_t end =
          std::min({std::ssize(r.tokens), r.seen + 1 + below(50), pool.next_stop(r.lease)});
      const bool room = pool.grow(r.lease, end);
      refusals += !room;
      if (room) {
        memory.compute(r.lease, r.tokens, r.seen, end);
        if (HasFatalFailure()) FAIL() << "step " << step;
        pool.commit(r.lease, std::span(r.tokens).first(static_cast<size_t>(end)));
        r.seen = end;
      }
      if (!room || below(12) == 0) {
        pool.close(r.lease);
        running.erase(running.begin() + static_cast<int64_t>(which));
      }
    }
  }
  for (auto& r : running) pool.close(r->lease);
  EXPECT_EQ(memory.free_everywhere(), all);
  EXPECT_GT(hits, 0);
  EXPECT_GT(refusals, 0) << "the pool was never full";
}

std::vector<Setting> settings() {
  std::vector<Setting> all = {{"Full", {}, {}},
                              {"Colliding", {}, kColliding},
                              {"Windows", {}, {}},
                              {"States", {}, {}},
                              {"Everything", {}, kColliding},
                              {"BlocksOf32", {.block_tokens = 32}, {}},
                              {"BlocksOf48", {.block_tokens = 48}, {}},
                              {"BlocksOf128", {.block_tokens = 128}, {}}};
  for (size_t i : {0u, 1u, 3u}) all[i].options.groups = {{.blocks = 30}};
  all[2].options.groups = {{.blocks = 26}, {.window = 20, .blocks = 13}};
  all[3].options.states = 7;
  all[3].options.snapshot_tokens = 48;
  all[4].options.groups = {{.window = 33, .blocks = 16}, {.blocks = 22}};
  all[4].options.states = 5;
  all[4].options.snapshot_tokens = 32;
  for (size_t i : {5u, 6u, 7u}) {
    all[i].options.groups = {{.blocks = 12}, {.window = 70, .blocks = 14}};
    all[i].options.states = 6;
    all[i].options.snapshot_tokens = 100;
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(CachePoolTest, RandomSchedules, testing::ValuesIn(settings()),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace quern::engine
