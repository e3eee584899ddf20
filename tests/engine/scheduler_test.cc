#include "engine/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/random.h"

namespace quern::engine {
namespace {

std::vector<int32_t> counted(int64_t tokens, int32_t first = 0) {
  std::vector<int32_t> all;
  for (int64_t i = 0; i < tokens; ++i) all.push_back(first + static_cast<int32_t>(i));
  return all;
}

// A scheduler with the engine around it, but for the model: a drawn token is its place in the
// sequence, so that prompts of counted tokens go on counting.
class Harness {
 public:
  Harness(const Scheduler::Options& options, const CachePool::Options& pool)
      : pool_(pool, PrefixTree(pool.block_tokens, PrefixTree::Key{1, 2})),
        scheduler_(options, pool_),
        options_(options) {}

  int64_t add(Request request) {
    scheduler_.add(std::make_unique<Sequence>(next_id_, std::move(request)));
    return next_id_++;
  }

  // One pass. The tokens that it computed, by sequence.
  std::map<int64_t, int64_t> step() {
    std::map<int64_t, int64_t> tokens;
    int64_t total = 0;
    const auto slices = scheduler_.next(prompts);
    pool_.take_copies();
    for (const Slice& slice : slices) {
      const int64_t id = slice.sequence->id;
      EXPECT_FALSE(tokens.contains(id)) << "two slices of one sequence";
      EXPECT_GT(slice.tokens, 0);
      order.push_back(id);
      tokens[id] = slice.tokens;
      total += slice.tokens;
      const bool draws = slice.last();
      scheduler_.computed(slice);
      EXPECT_EQ(slice.sequence->missing() == 0, draws);
      if (!draws) continue;
      drawn.insert(id);
      slice.sequence->tokens.push_back(static_cast<int32_t>(slice.sequence->length()));
      if (slice.sequence->finish(5000)) answers[id] = scheduler_.remove(id)->tokens;
    }
    EXPECT_LE(total, options_.max_num_batched_tokens);
    EXPECT_LE(scheduler_.running(), options_.max_num_seqs);
    return tokens;
  }

  CachePool pool_;
  Scheduler scheduler_;
  std::map<int64_t, std::vector<int32_t>> answers;
  std::vector<int64_t> order;  // of all slices
  std::set<int64_t> drawn;     // whose answers have begun
  int64_t prompts = 1 << 20;   // tokens of prompts in a pass with answers

 private:
  Scheduler::Options options_;
  int64_t next_id_ = 0;
};

using Tokens = std::map<int64_t, int64_t>;

TEST(SchedulerTest, RunningOnesFirstThenPromptsInPieces) {
  Harness harness({.max_num_seqs = 3, .max_num_batched_tokens = 32}, {.groups = {{.blocks = 40}}});
  harness.add({.tokens = counted(20), .max_tokens = 9});
  harness.add({.tokens = counted(40, 100), .max_tokens = 9});
  EXPECT_EQ(harness.step(), (Tokens{{0, 20}, {1, 12}}));
  harness.add({.tokens = counted(5, 200), .max_tokens = 9});
  harness.add({.tokens = counted(5, 300), .max_tokens = 9});
  EXPECT_EQ(harness.step(), (Tokens{{0, 1}, {1, 28}, {2, 3}}));
  EXPECT_EQ(harness.step(), (Tokens{{0, 1}, {1, 1}, {2, 2}}));  // the fourth finds no place
  EXPECT_EQ(harness.scheduler_.waiting(), 1);
}

TEST(SchedulerTest, LongPromptsLeaveRoomForOthers) {
  Harness harness({.max_num_batched_tokens = 64, .long_prefill_tokens = 16},
                  {.groups = {{.blocks = 40}}});
  harness.add({.tokens = counted(100)});
  harness.add({.tokens = counted(10, 500)});
  EXPECT_EQ(harness.step(), (Tokens{{0, 16}, {1, 10}}));
}

TEST(SchedulerTest, TheLatestIsPreemptedAndComesBackFirst) {
  // Two prompts of two blocks fill the pool; the third block of the first takes the second's.
  Harness harness({.max_num_batched_tokens = 64}, {.groups = {{.blocks = 4}}});
  harness.add({.tokens = counted(32), .max_tokens = 4});
  harness.add({.tokens = counted(32, 100), .max_tokens = 4});
  harness.add({.tokens = counted(1, 200), .max_tokens = 1});
  EXPECT_EQ(harness.step(), (Tokens{{0, 32}, {1, 32}}));
  EXPECT_EQ(harness.step(), (Tokens{{0, 1}}));
  EXPECT_EQ(harness.scheduler_.preemptions(), 1);
  EXPECT_EQ(harness.scheduler_.waiting(), 2);
  while (harness.answers.size() < 3) harness.step();
  EXPECT_EQ(harness.answers.at(0), counted(36));
  EXPECT_LT(std::ranges::find(harness.order, 1) - harness.order.begin(),
            std::ranges::find(harness.order, 2) - harness.order.begin());
  EXPECT_EQ(harness.pool_.free_blocks(0), 4);
}

TEST(SchedulerTest, PreemptedTokensComeFromThePrefixCache) {
  Harness harness({.max_num_batched_tokens = 64}, {.groups = {{.blocks = 5}}});
  harness.add({.tokens = counted(32), .max_tokens = 2});
  harness.add({.tokens = counted(40, 100), .max_tokens = 9});
  harness.step();  // 32 and 32 tokens
  harness.step();  // the first one ends; the second has its third block
  EXPECT_EQ(harness.scheduler_.preemptions(), 1);
  const int64_t hits = harness.scheduler_.prefix_hits();
  while (harness.answers.size() < 2) harness.step();
  EXPECT_GT(harness.scheduler_.prefix_hits(), hits);
}

TEST(SchedulerTest, PriorityGoesFirstAndPushesOthersOut) {
  Harness harness({.max_num_batched_tokens = 64, .policy = Policy::priority},
                  {.groups = {{.blocks = 4}}});
  harness.add({.tokens = counted(31), .max_tokens = 5, .priority = 2});
  harness.add({.tokens = counted(31, 100), .max_tokens = 5, .priority = 1});
  EXPECT_EQ(harness.step(), (Tokens{{0, 31}, {1, 31}}));
  EXPECT_EQ(harness.order.front(), 1);
  harness.step();
  EXPECT_EQ(harness.step(), (Tokens{{1, 1}}));  // 0 came first, but 1 is more urgent
  EXPECT_EQ(harness.scheduler_.preemptions(), 1);
}

TEST(SchedulerTest, KeysTakeTurns) {
  Harness harness({.max_num_seqs = 1, .max_num_batched_tokens = 16}, {.groups = {{.blocks = 4}}});
  std::map<int64_t, std::string> key_of;
  for (int i = 0; i < 8; ++i)
    key_of[harness.add({.tokens = counted(10), .max_tokens = 1, .fairness_key = "greedy"})] = "g";
  for (int i = 0; i < 3; ++i)
    key_of[harness.add({.tokens = counted(10), .max_tokens = 1, .fairness_key = "modest"})] = "m";
  std::string turns;
  while (harness.answers.size() < 11) {
    const size_t before = harness.order.size();
    harness.step();
    if (harness.order.size() > before) turns += key_of.at(harness.order.back());
  }
  EXPECT_EQ(std::ranges::count(turns, 'g'), 8);
  EXPECT_LE(turns.rfind('m'), 6u) << turns << ": whoever asks for little waits for the other";
}

// Steps until the answers of all these have begun.
int64_t steps_until_begun(Harness& harness, const std::vector<int64_t>& ids) {
  std::set<int64_t> waiting(ids.begin(), ids.end());
  for (int64_t steps = 1;; ++steps) {
    harness.step();
    std::erase_if(waiting, [&](int64_t id) { return harness.drawn.contains(id); });
    if (waiting.empty() || steps > 1000) return steps;
  }
}

TEST(SchedulerTest, ALongPromptDelaysNobodyElse) {
  for (const char* key : {"b", "a"}) {  // of another key, and of its own
    Harness harness({.max_num_batched_tokens = 64}, {.groups = {{.blocks = 400}}});
    const int64_t longest =
        harness.add({.tokens = counted(3900), .max_tokens = 1, .fairness_key = "a"});
    harness.step();
    std::vector<int64_t> short_ones;
    for (int i = 0; i < 5; ++i)
      short_ones.push_back(
          harness.add({.tokens = counted(8, 5000 + 10 * i), .max_tokens = 4, .fairness_key = key}));
    EXPECT_LE(steps_until_begun(harness, short_ones), 3) << key;
    EXPECT_LE(steps_until_begun(harness, {longest}), 3900 / 64 + 4) << "and loses little by it";
  }
}

// Whoever reads an answer waits no longer for it than a pass of so many tokens takes.
TEST(SchedulerTest, APassWithAnswersReadsNoMoreThanItMay) {
  Harness harness({.max_num_batched_tokens = 512}, {.groups = {{.blocks = 400}}});
  harness.prompts = 40;
  harness.add({.tokens = counted(20), .max_tokens = 5});
  EXPECT_EQ(harness.step(), (Tokens{{0, 20}}));
  const int64_t longest = harness.add({.tokens = counted(2000, 5000), .max_tokens = 1});
  for (int i = 0; i < 4; ++i) EXPECT_EQ(harness.step(), (Tokens{{0, 1}, {longest, 40}}));
  EXPECT_EQ(harness.step(), (Tokens{{longest, 512}})) << "nobody waits for an answer";
}

// Long prompts of one key that run already do not stand before what another key asks next.
TEST(SchedulerTest, PromptsThatRunShareEachPass) {
  Harness harness({.max_num_batched_tokens = 64}, {.groups = {{.blocks = 400}}});
  for (int i = 0; i < 4; ++i)
    harness.add({.tokens = counted(1000, 5000 * i), .max_tokens = 1, .fairness_key = "a"});
  for (int i = 0; i < 6; ++i) harness.step();
  const int64_t late = harness.add({.tokens = counted(300, 50'000), .fairness_key = "b"});
  // Half of each pass at least, but for what the first pass keeps for beginnings.
  EXPECT_LE(steps_until_begun(harness, {late}), 300 / 32 + 2);
}

// Others that keep coming, with less to read, do not keep a prompt from coming to its end.
TEST(SchedulerTest, ALongPromptComesToItsEnd) {
  Harness harness({.max_num_seqs = 8, .max_num_batched_tokens = 64}, {.groups = {{.blocks = 400}}});
  const int64_t longest = harness.add({.tokens = counted(1600), .max_tokens = 1});
  for (int step = 0; step < 1600 / 16 + 1; ++step) {
    for (int i = 0; i < 2; ++i)
      harness.add({.tokens = counted(60, 5000 + 1000 * (2 * step + i)), .max_tokens = 1});
    harness.step();
  }
  EXPECT_TRUE(harness.answers.contains(longest));
}

TEST(SchedulerTest, EqualPromptsAreComputedOnce) {
  Harness harness({.max_num_batched_tokens = 256}, {.groups = {{.blocks = 40}}});
  for (int i = 0; i < 3; ++i) harness.add({.tokens = counted(70), .max_tokens = 3});
  EXPECT_EQ(harness.step(), (Tokens{{0, 70}}));
  EXPECT_EQ(harness.step(), (Tokens{{0, 1}, {1, 6}, {2, 6}}));
  // A common beginning that is not worth the wait.
  harness.add({.tokens = counted(70, 1000)});
  auto other = counted(20, 1000);
  for (int32_t token : counted(50, 2000)) other.push_back(token);
  harness.add({.tokens = other});
  const Tokens both = harness.step();
  EXPECT_EQ(both.at(3), 70);
  EXPECT_EQ(both.at(4), 70);
}

TEST(SchedulerTest, NobodyElseWaitsForATwin) {
  Harness harness({.max_num_batched_tokens = 64}, {.groups = {{.blocks = 400}}});
  harness.add({.tokens = counted(1000), .fairness_key = "a"});
  harness.step();
  const int64_t twin = harness.add({.tokens = counted(1000), .fairness_key = "a"});
  const int64_t other = harness.add({.tokens = counted(8, 5000), .fairness_key = "a"});
  const Tokens pass = harness.step();
  EXPECT_FALSE(pass.contains(twin));
  EXPECT_EQ(pass.at(other), 8);
  EXPECT_EQ(harness.scheduler_.waiting(), 1);
  EXPECT_TRUE(harness.scheduler_.remove(twin));
  EXPECT_EQ(harness.scheduler_.waiting(), 0);
}

TEST(SchedulerTest, RemovedWhereverItStands) {
  Harness harness({.max_num_seqs = 1}, {.groups = {{.blocks = 4}}});
  const int64_t running = harness.add({.tokens = counted(20)}),
                waiting = harness.add({.tokens = counted(20)});
  harness.step();
  EXPECT_TRUE(harness.scheduler_.remove(waiting));
  EXPECT_TRUE(harness.scheduler_.remove(running));
  EXPECT_FALSE(harness.scheduler_.remove(running));
  EXPECT_EQ(harness.pool_.free_blocks(0), 4);
  EXPECT_TRUE(harness.scheduler_.next().empty());
}

// Whatever the room and the company, every answer goes on counting and ends where it should.
TEST(SchedulerTest, RandomSchedulesLoseNothing) {
  NumpyRandom random(3);
  auto below = [&](int64_t bound) {
    return static_cast<int64_t>(random.next() % static_cast<uint64_t>(bound));
  };
  int64_t preemptions = 0, hits = 0;
  for (int round = 0; round < 60; ++round) {
    const int64_t blocks = 8 + below(20);
    const bool states = below(2) == 0;
    Harness harness({.max_num_seqs = 1 + below(6),
                     .max_num_batched_tokens = 6 + below(60),
                     .policy = below(2) ? Policy::fcfs : Policy::priority,
                     .long_prefill_tokens = below(2) * 9},
                    {.groups = {{.blocks = blocks}, {.window = 18, .blocks = 8}},
                     .states = states ? 6 + below(4) : 0,
                     .snapshot_tokens = 32});
    std::map<int64_t, int64_t> wanted;
    std::set<int64_t> cancelled;
    while (wanted.size() < 20 || harness.answers.size() + cancelled.size() < wanted.size()) {
      if (wanted.size() < 20 && below(2) == 0) {
        const int64_t prompt = 1 + below(80), made = 1 + below(40);
        const int64_t id = harness.add({.tokens = counted(prompt),
                                        .max_tokens = made,
                                        .priority = below(3),
                                        .fairness_key = below(2) ? "a" : "b",
                                        .cache_salt = below(4) ? "" : "salt"});
        wanted[id] = prompt + made;
      }
      if (below(40) == 0 && !wanted.empty()) {
        const int64_t id = below(std::ssize(wanted));
        if (harness.scheduler_.remove(id)) cancelled.insert(id);
      }
      harness.step();
    }
    for (const auto& [id, tokens] : wanted) {
      if (!cancelled.contains(id)) {
        ASSERT_EQ(harness.answers.at(id), counted(tokens));
      }
    }
    ASSERT_EQ(harness.pool_.free_blocks(0), blocks);
    ASSERT_EQ(harness.pool_.free_blocks(1), 8);
    preemptions += harness.scheduler_.preemptions();
    hits += harness.scheduler_.prefix_hits();
  }
  EXPECT_GT(preemptions, 20);
  EXPECT_GT(hits, 1000);
}

}  // namespace
}  // namespace quern::engine
