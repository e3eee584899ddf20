#include "tensor/machine_memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <iterator>
#include <limits>
#include <sstream>
#include <string_view>

#include "tensor/memory.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

std::string text_of(const fs::path& file) {
  std::ifstream stream(file);  // files of /proc have no size before they are read
  return {std::istreambuf_iterator<char>(stream), {}};
}

// The number after `key`, or, for an empty key, the number that is the whole file; -1 if none.
int64_t number_in(const fs::path& file, std::string_view key) {
  const std::string text = text_of(file);
  const size_t found = text.find(key);
  if (found == std::string::npos) return -1;
  const size_t digits = text.find_first_of("0123456789", found + key.size());
  int64_t number = -1;
  if (digits != std::string::npos)
    std::from_chars(text.data() + digits, text.data() + text.size(), number);
  return number;
}

// The files for the memory of a control group.
struct GroupFiles {
  const char *limit, *used, *cached;  // cached: the key in memory.stat for reclaimable pages
};
constexpr GroupFiles kVersion1 = {"memory.limit_in_bytes", "memory.usage_in_bytes",
                                  "total_inactive_file "};
constexpr GroupFiles kVersion2 = {"memory.max", "memory.current", "inactive_file "};

void narrow_by(const fs::path& group, const GroupFiles& files, MachineMemory& memory) {
  // Without a limit, version 2 writes "max", which has no digits, and version 1 a huge number.
  const int64_t limit = number_in(group / files.limit, ""),
                used = number_in(group / files.used, "");
  if (limit < 0 || used < 0) return;
  const int64_t cached = std::max<int64_t>(0, number_in(group / "memory.stat", files.cached));
  memory.total = std::min(memory.total, limit);
  memory.available = std::min(memory.available, std::max<int64_t>(0, limit - used + cached));
}

// Inside a container the path may be the host's and not exist; the top always exists.
void narrow_by_all(const fs::path& top, fs::path below, const GroupFiles& files,
                   MachineMemory& memory) {
  below = below.relative_path();
  for (; !below.empty(); below = below.parent_path()) narrow_by(top / below, files, memory);
  narrow_by(top, files, memory);
}

}  // namespace

MachineMemory machine_memory(const fs::path& root) {
  const fs::path information = root / "proc/meminfo", groups = root / "sys/fs/cgroup";
  MachineMemory memory{number_in(information, "MemTotal:") * 1024,
                       number_in(information, "MemAvailable:") * 1024};
  // One line for each hierarchy: its number, its controllers, the path of the process's group.
  std::istringstream lines(text_of(root / "proc/self/cgroup"));
  for (std::string line; std::getline(lines, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = fmt::format(",{},", line.substr(first + 1, second - first - 1)),
                      path = line.substr(second + 1);
    if (controllers == ",,") narrow_by_all(groups, path, kVersion2, memory);
    if (controllers.find(",memory,") != std::string::npos)
      narrow_by_all(groups / "memory", path, kVersion1, memory);
  }
  return memory;
}

namespace {

int64_t of_this_process(std::string_view key) { return number_in("/proc/self/status", key) * 1024; }

}  // namespace

int64_t private_memory() { return of_this_process("RssAnon:"); }

int64_t growth_during(const std::function<void()>& work) {
  release_memory();  // memory kept for reuse would hide the use of `work`
  const int64_t before = private_memory();
  std::ofstream("/proc/self/clear_refs") << 5;  // resets VmHWM to the current use
  work();
  // Pages of files only increase during the work, so there were no more of them at the peak than
  // now.
  const int64_t peak = of_this_process("VmHWM:") - of_this_process("RssFile:");
  release_memory();
  return std::max<int64_t>(0, peak - before);
}

std::string bytes_text(int64_t bytes) {
  const double gib = static_cast<double>(bytes) / (int64_t{1} << 30);
  return gib >= 0.1 ? fmt::format("{:.2f} GiB", gib)
                    : fmt::format("{:.2f} MiB", static_cast<double>(bytes) / (1 << 20));
}

}  // namespace quern
