#include "engine/memory_plan.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace quern::engine {
namespace {

constexpr int64_t kGib = int64_t{1} << 30;
constexpr MachineMemory kMachine{.total = 16 * kGib, .available = 8 * kGib};
constexpr MemoryWishes kWishes{
    .cache_bytes = 1 << 20, .max_num_seqs = 4, .max_num_batched_tokens = 64};

MemoryPlan plan_memory(const MemoryNeeds& needs, const MemoryWishes& wishes) {
  return engine::plan_memory(needs, wishes, kMachine);
}

template <class Work>
std::string refusal(const Work& work) {
  try {
    work();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::memory);
    return error.what();
  }
  return "";
}

TEST(MemoryPlanTest, FullLayersGetWhatTheyCanUse) {
  const MemoryNeeds needs{.windows = {0}, .block_bytes = {1024}, .longest = 1000};
  const MemoryPlan plan = plan_memory(needs, kWishes);
  EXPECT_EQ(plan.blocks, std::vector<int64_t>{504});  // twice 4 sequences of 63 blocks
  EXPECT_EQ(plan.kv_tokens, 504 * 16);
  EXPECT_EQ(plan.max_model_len, 1000);
  EXPECT_EQ(plan.states, 0);
  EXPECT_LE(plan.caches, kWishes.cache_bytes);
}

TEST(MemoryPlanTest, WindowsAndStatesComeFirst) {
  const MemoryNeeds needs{
      .windows = {0, 100}, .block_bytes = {4096, 1024}, .state_bytes = 16384, .longest = 100000};
  const MemoryPlan plan = plan_memory(needs, kWishes);
  EXPECT_EQ(plan.blocks[1], 4 * (7 + 2) + 4);
  EXPECT_EQ(plan.states, 4 + (1 << 20) / 5 / 16384);
  EXPECT_LE(plan.caches, kWishes.cache_bytes);
  EXPECT_GT(plan.caches, kWishes.cache_bytes - 4096);
  EXPECT_EQ(plan.max_model_len, plan.blocks[0] * 16) << "as long as the memory allows";
}

TEST(MemoryPlanTest, NoSnapshotsWithoutPrefixCaching) {
  MemoryWishes wishes = kWishes;
  wishes.prefix_caching = false;
  EXPECT_EQ(
      plan_memory({.windows = {0}, .block_bytes = {64}, .state_bytes = 99, .longest = 9}, wishes)
          .states,
      4);
}

TEST(MemoryPlanTest, RefusalsNameTheFlag) {
  MemoryWishes wishes = kWishes;
  wishes.max_model_len = 20000;
  const std::string length = refusal(
      [&] { plan_memory({.windows = {0}, .block_bytes = {1024}, .longest = 100000}, wishes); });
  EXPECT_NE(length.find("--max-model-len"), std::string::npos) << length;
  EXPECT_NE(length.find("maximum model length is 16384"), std::string::npos) << length;
  const std::string sequences = refusal([] {
    plan_memory({.windows = {0}, .block_bytes = {1024}, .state_bytes = 1 << 19, .longest = 1000},
                kWishes);
  });
  EXPECT_NE(sequences.find("--max-num-seqs"), std::string::npos) << sequences;
}

TEST(MemoryPlanTest, LargerBlocksHoldTheSameTokens) {
  const MemoryPlan plan = plan_memory(
      {.block_tokens = 64, .windows = {0, 100}, .block_bytes = {4096, 1024}, .longest = 1000},
      kWishes);
  EXPECT_EQ(plan.blocks, (std::vector<int64_t>{2 * 4 * 16, 4 * (2 + 2) + 1}));
  EXPECT_EQ(plan.kv_tokens, plan.blocks[0] * 64);
}

TEST(MemoryPlanTest, ThePlanInOneLine) {
  const MemoryPlan plan = plan_memory({.windows = {0},
                                       .block_bytes = {1024},
                                       .longest = 1000,
                                       .weights = 3 * kGib,
                                       .activations = kGib / 2},
                                      kWishes);
  EXPECT_EQ(plan.text(),
            "memory: 3.00 GiB of weights, 0.50 GiB for a step, 0.49 MiB of caches; KV cache size: "
            "8064 tokens in blocks of 16; 4 sequences at once; maximum concurrency for 1000 tokens "
            "per request: 8.06x");
}

// ---- what the caches may take

constexpr MemoryNeeds kLoaded{.weights = 5 * kGib, .mapped_weights = kGib, .activations = kGib};

TEST(CacheBudgetTest, ACautiousPartWhenNobodySays) {
  EXPECT_EQ(cache_budget(kLoaded, {}, kMachine), (8 - 1 - 1) * kGib / 4);
  EXPECT_EQ(cache_budget(kLoaded, {}, {.total = 999 * kGib, .available = 900 * kGib}), 16 * kGib);
}

TEST(CacheBudgetTest, WhatIsAskedFor) {
  EXPECT_EQ(cache_budget(kLoaded, {.cache_bytes = 6 * kGib}, kMachine), 6 * kGib);
  const std::string why = refusal(
      [] { cache_budget(kLoaded, {.cache_bytes = 7 * kGib, .utilization = 0.9}, kMachine); });
  EXPECT_NE(why.find("--kv-cache-memory-bytes"), std::string::npos) << why;
  EXPECT_NE(why.find("--max-num-batched-tokens"), std::string::npos) << why;
  EXPECT_NE(why.find("6.00 GiB"), std::string::npos) << why;
}

TEST(CacheBudgetTest, TheRestOfTheShareOfTheMachine) {
  EXPECT_EQ(cache_budget(kLoaded, {.utilization = 0.5}, kMachine), (8 - 5 - 1) * kGib);
  // Others have taken a part of the share.
  EXPECT_EQ(cache_budget(kLoaded, {.utilization = 1}, kMachine), (8 - 1 - 1) * kGib);
  const std::string why = refusal([] { cache_budget(kLoaded, {.utilization = 0.25}, kMachine); });
  EXPECT_NE(why.find("--gpu-memory-utilization 0.25"), std::string::npos) << why;
}

TEST(CacheBudgetTest, NothingIsLeft) {
  const std::string why =
      refusal([] { cache_budget(kLoaded, {}, {.total = 16 * kGib, .available = kGib}); });
  EXPECT_NE(why.find("--max-num-batched-tokens"), std::string::npos) << why;
}

}  // namespace
}  // namespace quern::engine
