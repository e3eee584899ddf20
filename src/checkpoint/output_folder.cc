#include "checkpoint/output_folder.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "checkpoint/byte_ranges.h"

namespace quern::checkpoint {
namespace fs = std::filesystem;
namespace {

constexpr const char* kPart = ".quern-part-";

fs::path with_ending(const fs::path& path, const std::string& ending) {
  return fs::path(path.string() + ending);
}

bool is_there(const fs::path& path) {
  return fs::symlink_status(path).type() != fs::file_type::not_found;
}

void check_source(const fs::path& out, const fs::path& source) {
  const fs::path canonical_out = fs::weakly_canonical(out),
                 canonical_source = fs::weakly_canonical(source);
  if (is_beneath(canonical_out, canonical_source) || is_beneath(canonical_source, canonical_out))
    fail(Exit::usage, "{}: the output overlaps the source {}; choose another -o", out.string(),
         source.string());
}

// Only a model folder is ever replaced: a mistyped -o must not delete a home folder.
void check_replaceable(const fs::path& out) {
  const bool folder = fs::is_directory(fs::symlink_status(out));
  if (!folder || !(fs::is_empty(out) || is_there(out / "config.json")))
    fail(Exit::usage,
         "{}: exists and is not a model folder, so --force does not replace it; choose another -o",
         out.string());
}

void check_room(const fs::path& folder, size_t needed) {
  struct statvfs status{};
  if (::statvfs(folder.c_str(), &status) != 0) fail_on_disk(errno, "look at", folder.string());
  const size_t free = static_cast<size_t>(status.f_bavail) * status.f_frsize;
  if (free < needed)
    fail(Exit::disk,
         "{}: the output needs {:.2f} GB, but {:.2f} GB are free; free space, or choose another -o",
         folder.string(), static_cast<double>(needed) / 1e9, static_cast<double>(free) / 1e9);
}

// Only one process at a time removes leftovers and makes its own folder, because between mkdir and
// its lock a folder looks like a leftover. The lock is on the parent folder and ends with the
// returned descriptor. If another program holds the lock for too long, this one stops waiting.
Descriptor wait_for_turn(const fs::path& parent) {
  Descriptor turn(::open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!turn.open()) fail_on_disk(errno, "open", parent.string());
  for (int tries = 0; tries < 100 && ::flock(turn.get(), LOCK_EX | LOCK_NB) != 0; ++tries)
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  return turn;
}

[[noreturn]] void fail_for_another(const fs::path& out) {
  fail(Exit::usage, "{}: another process is writing this output; wait for it, or choose another -o",
       out.string());
}

// renameat2 with flags, or -1 with errno; plain rename if the filesystem does not support flags.
int rename_with(const fs::path& from, const fs::path& to, unsigned flags) {
  int result = ::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), flags);
  if (result == 0 || errno != EINVAL) return result;
  if (flags == RENAME_NOREPLACE)
    return is_there(to) ? (errno = EEXIST, -1) : ::rename(from.c_str(), to.c_str());
  const fs::path aside = with_ending(from, "-old");
  if (::rename(to.c_str(), aside.c_str()) != 0 || ::rename(from.c_str(), to.c_str()) != 0)
    return -1;
  return ::rename(aside.c_str(), from.c_str());
}

}  // namespace

OutputFolder::OutputFolder(const fs::path& out, const OutputOptions& options)
    : out_(fs::absolute(out).lexically_normal()), force_(options.force) {
  if (!out_.has_filename()) out_ = out_.parent_path();
  const fs::path parent = out_.parent_path();
  if (!fs::is_directory(parent))
    fail(Exit::usage, "{}: the parent folder of the output does not exist; create it",
         parent.string());
  if (!options.source.empty()) check_source(out_, options.source);
  if (is_there(out_)) {
    if (!force_)
      fail(Exit::usage, "{}: already exists; choose another -o, or --force to replace it",
           out_.string());
    check_replaceable(out_);
  }
  const Descriptor turn = wait_for_turn(parent);
  take_leftovers(options.resume);
  if (resumed_) return;  // its space is already reserved
  check_room(parent, options.needed_bytes);
  make_part();
}

// If directories cannot be locked, another run may have been quicker.
void OutputFolder::make_part() {
  part_ = with_ending(out_, kPart + std::to_string(::getpid()));
  if (::mkdir(part_.c_str(), 0755) != 0) {
    if (errno == EEXIST) fail_for_another(out_);
    fail_on_disk(errno, "create", part_.string());
  }
  if (lock(part_) == Lock::held_by_another) fail_for_another(out_);
  owned_ = true;
}

OutputFolder::~OutputFolder() {
  std::error_code ignored;
  if (owned_) fs::remove_all(part_, ignored);
}

void OutputFolder::take_leftovers(bool resume) {
  const std::string prefix = out_.filename().string() + kPart;
  std::vector<fs::path> leftovers;
  std::error_code error;
  const fs::directory_iterator entries(out_.parent_path(), error);
  if (error) fail_on_disk(error.value(), "list", out_.parent_path().string());
  for (const auto& entry : entries)
    if (entry.path().filename().string().starts_with(prefix) &&
        fs::is_directory(entry.symlink_status()))
      leftovers.push_back(entry.path());
  std::sort(leftovers.begin(), leftovers.end());
  for (const fs::path& leftover : leftovers) {
    const Lock found = lock(leftover);
    if (found == Lock::held_by_another) fail_for_another(out_);
    if (found == Lock::not_possible)
      fail(Exit::usage,
           "{}: another process may be writing this output, which this filesystem does not show; "
           "remove that folder if there is none",
           leftover.string());
    if (resume && !resumed_) {
      part_ = leftover;
      resumed_ = owned_ = true;
      continue;
    }
    log_warning("{}: removed this leftover of an aborted run", leftover.string());
    fs::remove_all(leftover);
  }
  if (resumed_ && lock(part_) != Lock::taken) fail_for_another(out_);
}

OutputFolder::Lock OutputFolder::lock(const fs::path& folder) {
  lock_ = Descriptor(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
  if (!lock_.open()) return errno == ENOENT ? Lock::held_by_another : Lock::not_possible;
  if (::flock(lock_.get(), LOCK_EX | LOCK_NB) == 0) return Lock::taken;
  return errno == EWOULDBLOCK ? Lock::held_by_another : Lock::not_possible;
}

void OutputFolder::publish() { become(out_, force_); }

fs::path OutputFolder::reject() {
  const fs::path target = with_ending(out_, ".rejected");
  if (is_there(target)) check_replaceable(target);
  become(target, /*replace=*/true);
  return target;
}

void OutputFolder::keep() { owned_ = false; }

void OutputFolder::become(const fs::path& target, bool replace) {
  QUERN_CHECK(owned_);
  sync_folder(part_);
  const bool swap = replace && is_there(target);
  if (rename_with(part_, target, swap ? RENAME_EXCHANGE : RENAME_NOREPLACE) != 0) {
    const int error = errno;
    keep();
    fail(Exit::disk,
         "{}: cannot rename the finished output to this name: {}; the complete output is in {}",
         target.string(), std::strerror(error), part_.string());
  }
  sync_folder(target.parent_path());
  owned_ = false;
  if (!swap) return;
  std::error_code ignored;
  fs::remove_all(part_, ignored);  // after the swap it is the replaced folder
}

}  // namespace quern::checkpoint
