// The memory that this process may use, and the memory that a piece of work uses.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

namespace quern {

struct MachineMemory {
  int64_t total = 0;      // of the machine, or of a control group with a lower limit
  int64_t available = 0;  // the part of `total` that is free or reclaimable
};

// Considers control groups of version 1 and 2, including the parents of this process's group.
// `root` contains proc and sys.
MachineMemory machine_memory(const std::filesystem::path& root = "/");

// Resident bytes of this process that are not backed by a file.
int64_t private_memory();

// The growth of this process's peak memory while `work` runs, in bytes, without mapped files. If
// the kernel does not allow the peak to be reset, an earlier, larger peak counts.
int64_t growth_during(const std::function<void()>& work);

// "3.2 GiB"
std::string bytes_text(int64_t bytes);

}  // namespace quern
