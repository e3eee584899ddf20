// The output of a long job: filled under a temporary name beside its place, and renamed when it is
// complete. Whoever finds the folder finds all of it.
#pragma once

#include <cstddef>
#include <filesystem>

#include "checkpoint/folder.h"

namespace quern::checkpoint {

struct OutputOptions {
  std::filesystem::path source = {};  // the folder that is read; never touched, may be empty
  size_t needed_bytes = 0;            // refused at once when the disk has less
  bool force = false;   // replace an existing model folder, at the moment the new one is complete
  bool resume = false;  // take up what an interrupted run left instead of removing it
};

class OutputFolder {
 public:
  // Makes OUT.quern-part-PID. Exit::usage when OUT exists, lies in the source, or is being written
  // by another process; Exit::disk when there is too little room. What dead processes left of the
  // same OUT is removed, or resumed.
  explicit OutputFolder(const std::filesystem::path& out, const OutputOptions& options = {});
  // Removes the temporary folder unless it was published, rejected or kept.
  ~OutputFolder();
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;

  const std::filesystem::path& path() const { return part_; }  // where to write
  bool resumed() const { return resumed_; }

  // It becomes OUT.
  void publish();
  // It becomes OUT.rejected, which is returned; an older one is replaced.
  std::filesystem::path reject();
  // It stays for a later run with `resume`.
  void keep();

 private:
  enum class Lock { taken, held_by_another, not_possible };

  void take_leftovers(bool resume);
  void make_part();
  Lock lock(const std::filesystem::path& folder);
  void become(const std::filesystem::path& target, bool replace);

  std::filesystem::path out_, part_;
  Descriptor lock_;  // flock on the temporary folder: tells the living from the dead
  bool force_ = false, resumed_ = false, owned_ = false;
};

}  // namespace quern::checkpoint
