#include "tensor/memory.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <thread>

#include "base/random.h"

namespace quern {
namespace {

constexpr int64_t kMiB = 1 << 20;

Tensor bytes_of(int64_t size) { return at::empty({size}, at::kByte); }

uintptr_t place(const Tensor& x) { return reinterpret_cast<uintptr_t>(x.const_data_ptr()); }

int64_t resident_bytes() {
  int64_t total = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> total >> resident;
  return resident * ::sysconf(_SC_PAGESIZE);
}

class MemoryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    prepare_torch();
    if (allocate_bytes(kMiB); memory_counts().mapped == 0)
      GTEST_SKIP() << "sanitizers keep LibTorch's allocator";
    release_memory();
    start_ = memory_counts();
  }

  MemoryCounts start_;
};

TEST_F(MemoryTest, TheNextTensorOfAboutTheSizeGetsWhatOneLeaves) {
  uintptr_t first;
  {
    const Tensor x = bytes_of(9 * kMiB);
    first = place(x);
    EXPECT_EQ(first % (2 * kMiB), 0u);  // on huge pages
  }
  EXPECT_EQ(memory_counts().kept - start_.kept, 9 * kMiB);
  EXPECT_EQ(place(bytes_of(9 * kMiB)), first);
  EXPECT_EQ(place(bytes_of(9 * kMiB - 70000)), first);
  EXPECT_EQ(place(bytes_of(15 * kMiB / 2)), first);
  EXPECT_EQ(memory_counts().mapped, start_.mapped + 1);
  bytes_of(7 * kMiB);  // more than a quarter would lie idle
  EXPECT_EQ(memory_counts().mapped, start_.mapped + 2);
}

TEST_F(MemoryTest, SmallTensorsAreMallocs) {
  const Tensor small = bytes_of(kMiB - 1), empty = bytes_of(0);
  EXPECT_EQ(memory_counts().mapped, start_.mapped);
  EXPECT_EQ(place(small) % 64, 0u);
  const Tensor large = bytes_of(kMiB);
  EXPECT_EQ(memory_counts().in_use - start_.in_use, kMiB);
  EXPECT_EQ(place(large) % 64, 0u);
}

TEST_F(MemoryTest, WhatIsKeptRaisesNoPeak) {
  {
    const Tensor a = bytes_of(40 * kMiB), b = bytes_of(24 * kMiB);
  }
  EXPECT_EQ(memory_counts().kept - start_.kept, 64 * kMiB);
  // 14 MiB fit neither; at most 50 of 64 MiB may stay, so the oldest kept mapping is removed.
  const Tensor c = bytes_of(14 * kMiB);
  const MemoryCounts now = memory_counts();
  EXPECT_EQ(now.in_use - start_.in_use, 14 * kMiB);
  EXPECT_LE(now.in_use + now.kept, start_.in_use + 64 * kMiB);
  EXPECT_GT(now.kept, 0);
  const Tensor d = bytes_of(192 * kMiB);
  EXPECT_EQ(memory_counts().in_use - start_.in_use, 206 * kMiB);
  EXPECT_EQ(memory_counts().kept, 0);
}

TEST_F(MemoryTest, ReleasedMemoryIsTheSystems) {
  {
    at::ones({64 * kMiB / 4});
  }
  const int64_t before = resident_bytes();
  release_memory();
  EXPECT_EQ(memory_counts().kept, 0);
  EXPECT_LT(resident_bytes(), before - 60 * kMiB);
}

TEST_F(MemoryTest, ZerosAreZerosInMemoryThatWasUsed) {
  {
    at::ones({3 * kMiB});
  }
  const Tensor zeros = at::zeros({3 * kMiB});
  EXPECT_EQ(memory_counts().reused - start_.reused, 1);
  EXPECT_EQ(zeros.abs().max().item<float>(), 0);
}

TEST_F(MemoryTest, BytesComeFromTheSamePlace) {
  const auto first = allocate_bytes(4 * kMiB);
  EXPECT_EQ(memory_counts().in_use - start_.in_use, 4 * kMiB);
  const auto second = allocate_bytes(100);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(second.get()) % 64, 0u);
}

// Every thread fills its memory with its own number and reads it back.
TEST_F(MemoryTest, ThreadsDoNotMeet) {
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (int number = 0; number < 4; ++number) {
    threads.emplace_back([&wrong, number] {
      NumpyRandom random(number);
      std::vector<Tensor> held;
      for (int round = 0; round < 300; ++round) {
        if (held.size() < 4) {
          held.push_back(bytes_of(kMiB + static_cast<int64_t>(random.next() % (3 * kMiB))));
          uint8_t* data = held.back().data_ptr<uint8_t>();
          data[0] = data[held.back().numel() - 1] = static_cast<uint8_t>(number);
        } else {
          const size_t which = random.next() % held.size();
          const uint8_t* data = held[which].const_data_ptr<uint8_t>();
          if (data[0] != number || data[held[which].numel() - 1] != number) ++wrong;
          held.erase(held.begin() + static_cast<std::ptrdiff_t>(which));
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(memory_counts().in_use, start_.in_use);
}

TEST(ZeroPages, AreZerosThatCostNothingUntouched) {
  const int64_t before = resident_bytes();
  Tensor x = zero_pages({1024, kMiB}, at::kFloat);
  EXPECT_LT(resident_bytes(), before + 8 * kMiB);
  EXPECT_EQ(x[1023].abs().max().item<float>(), 0);
  EXPECT_EQ(zero_pages({0, 3}, at::kFloat).numel(), 0);
}

}  // namespace
}  // namespace quern
