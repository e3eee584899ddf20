#include "tensor/machine_memory.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <memory>

namespace quern {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kGib = int64_t{1} << 30;

// The files of a machine with 64 GiB, of which 40 are available.
class MachineMemoryTest : public testing::Test {
 protected:
  MachineMemoryTest() {
    fs::remove_all(root_);
    write("proc/meminfo",
          "MemTotal:       67108864 kB\nMemFree:         1000 kB\nMemAvailable:   41943040 kB\n");
  }
  ~MachineMemoryTest() override { fs::remove_all(root_); }

  void write(const fs::path& name, const std::string& text) const {
    fs::create_directories((root_ / name).parent_path());
    std::ofstream(root_ / name) << text;
  }
  void write(const fs::path& name, int64_t number) const { write(name, std::to_string(number)); }
  void expect(int64_t total, int64_t available) const {
    const MachineMemory memory = machine_memory(root_);
    EXPECT_EQ(memory.total, total * kGib);
    EXPECT_EQ(memory.available, available * kGib);
  }

  fs::path root_ = fs::path(testing::TempDir()) / "quern-machine-memory-test";
};

TEST_F(MachineMemoryTest, WithoutGroups) { expect(64, 40); }

TEST_F(MachineMemoryTest, GroupOfVersion2) {
  write("proc/self/cgroup", "0::/pods/server\n");
  write("sys/fs/cgroup/pods/server/memory.max", "max\n");
  write("sys/fs/cgroup/pods/server/memory.current", kGib);
  write("sys/fs/cgroup/pods/memory.max", 16 * kGib);
  write("sys/fs/cgroup/pods/memory.current", 10 * kGib);
  expect(16, 6);
  // Inactive pages of files are reclaimable.
  write("sys/fs/cgroup/pods/memory.stat",
        "anon 5\nfile 9\ninactive_anon 7\ninactive_file " + std::to_string(3 * kGib) + "\n");
  expect(16, 9);
}

TEST_F(MachineMemoryTest, GroupOfVersion1) {
  write("proc/self/cgroup", "9:cpu,cpuacct:/x\n4:memory:/docker/abc\n0::/\n");
  const fs::path group = "sys/fs/cgroup/memory/docker/abc";
  write(group / "memory.limit_in_bytes", 8 * kGib);
  write(group / "memory.usage_in_bytes", 6 * kGib);
  write(group / "memory.stat",
        "inactive_file 5\ntotal_inactive_file " + std::to_string(kGib) + "\n");
  write("sys/fs/cgroup/memory/memory.limit_in_bytes", int64_t{9223372036854771712});
  write("sys/fs/cgroup/memory/memory.usage_in_bytes", 50 * kGib);
  expect(8, 3);
}

TEST_F(MachineMemoryTest, InsideOfAContainerThePathIsTheHosts) {
  write("proc/self/cgroup", "4:memory:/docker/abc\n");
  write("sys/fs/cgroup/memory/memory.limit_in_bytes", 8 * kGib);
  write("sys/fs/cgroup/memory/memory.usage_in_bytes", 2 * kGib);
  expect(8, 6);
}

TEST_F(MachineMemoryTest, AnExhaustedGroupHasNothing) {
  write("proc/self/cgroup", "0::/\n");
  write("sys/fs/cgroup/memory.max", 4 * kGib);
  write("sys/fs/cgroup/memory.current", 5 * kGib);
  expect(4, 0);
}

TEST(ThisMachineTest, HasMemory) {
  const MachineMemory memory = machine_memory();
  EXPECT_GT(memory.available, 1 << 20);
  EXPECT_GE(memory.total, memory.available);
  EXPECT_LT(memory.total, int64_t{1} << 50);
}

void hold(size_t bytes) {
  const std::unique_ptr<char[]> memory(new char[bytes]);
  std::memset(memory.get(), 1, bytes);
  ASSERT_EQ(*static_cast<volatile char*>(memory.get()), 1);
}

TEST(GrowthTest, IsThePeakOfTheWorkAlone) {
  if (::access("/proc/self/clear_refs", W_OK) != 0) GTEST_SKIP() << "the peak cannot be reset";
  constexpr int64_t kMib = 1 << 20;
  hold(100 * kMib);
  const int64_t small = growth_during([] { hold(4 * kMib); });
  EXPECT_GE(small, 3 * kMib);
  EXPECT_LT(small, 20 * kMib);
  const int64_t twice = growth_during([] {
    hold(48 * kMib);
    hold(48 * kMib);
  });
  EXPECT_GE(twice, 47 * kMib);
  EXPECT_LT(twice, 70 * kMib);
}

}  // namespace
}  // namespace quern
