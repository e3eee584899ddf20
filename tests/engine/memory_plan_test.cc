#include "engine/memory_plan.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace quern::engine {
namespace {

constexpr MemoryWishes kWishes{.bytes = 1 << 20, .max_num_seqs = 4, .max_num_batched_tokens = 64};

std::string refusal(const MemoryNeeds& needs, const MemoryWishes& wishes) {
  try {
    plan_memory(needs, wishes);
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
  EXPECT_LE(plan.bytes, kWishes.bytes);
}

TEST(MemoryPlanTest, WindowsAndStatesComeFirst) {
  const MemoryNeeds needs{
      .windows = {0, 100}, .block_bytes = {4096, 1024}, .state_bytes = 16384, .longest = 100000};
  const MemoryPlan plan = plan_memory(needs, kWishes);
  EXPECT_EQ(plan.blocks[1], 4 * (7 + 2) + 4);
  EXPECT_EQ(plan.states, 4 + (1 << 20) / 5 / 16384);
  EXPECT_LE(plan.bytes, kWishes.bytes);
  EXPECT_GT(plan.bytes, kWishes.bytes - 4096);
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
  const std::string length =
      refusal({.windows = {0}, .block_bytes = {1024}, .longest = 100000}, wishes);
  EXPECT_NE(length.find("--max-model-len"), std::string::npos) << length;
  EXPECT_NE(length.find("maximum model length is 16384"), std::string::npos) << length;
  const std::string sequences = refusal(
      {.windows = {0}, .block_bytes = {1024}, .state_bytes = 1 << 19, .longest = 1000}, kWishes);
  EXPECT_NE(sequences.find("--max-num-seqs"), std::string::npos) << sequences;
}

TEST(MemoryPlanTest, TheMachineHasMemory) {
  EXPECT_GT(available_memory(), 1 << 20);
  EXPECT_LT(available_memory(), int64_t{1} << 50);
}

}  // namespace
}  // namespace quern::engine
