// How much memory this process may use, and how much of it a piece of work takes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

namespace quern {

struct MachineMemory {
  int64_t total = 0;      // of the machine, or of a control group that has less
  int64_t available = 0;  // of it, what nobody uses or what can be reclaimed
};

// Control groups of version 1 and 2, those above this process's own included. `root` holds /proc
// and /sys.
MachineMemory machine_memory(const std::filesystem::path& root = "/");

// Bytes in memory that belong to this process alone: no file holds them.
int64_t private_memory();

// How many bytes more than before this process held at a time while `work` ran, those of mapped
// files apart. Where the kernel does not let its peak be reset, an older and larger one counts.
int64_t growth_during(const std::function<void()>& work);

// "3.2 GiB"
std::string bytes_text(int64_t bytes);

}  // namespace quern
