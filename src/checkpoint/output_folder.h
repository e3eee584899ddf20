// The output of a long job: written under a temporary name next to its final one, and renamed when
// complete. A folder with the final name is always complete.
#pragma once

#include <cstddef>
#include <filesystem>

#include "checkpoint/folder.h"

namespace quern::checkpoint {

struct OutputOptions {
  std::filesystem::path source = {};  // the input folder, never touched; may be empty
  size_t needed_bytes = 0;            // fails at once if the disk has less
  bool force = false;   // replace an existing model folder once the new one is complete
  bool resume = false;  // continue in the folder of an interrupted run instead of removing it
};

class OutputFolder {
 public:
  // Makes OUT.quern-part-PID. Fails with Exit::usage if OUT exists, is in the source, or is being
  // written by another process, and with Exit::disk if there is too little space. Leftovers of
  // ended processes for the same OUT are removed, or resumed.
  explicit OutputFolder(const std::filesystem::path& out, const OutputOptions& options = {});
  // Removes the temporary folder unless it was published, rejected or kept.
  ~OutputFolder();
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;

  const std::filesystem::path& path() const { return part_; }  // where to write
  bool resumed() const { return resumed_; }

  // Renames it to OUT.
  void publish();
  // Renames it to OUT.rejected, replacing an older one, and returns that path.
  std::filesystem::path reject();
  // Keeps it for a later run with `resume`.
  void keep();

 private:
  enum class Lock { taken, held_by_another, not_possible };

  void take_leftovers(bool resume);
  void make_part();
  Lock lock(const std::filesystem::path& folder);
  void become(const std::filesystem::path& target, bool replace);

  std::filesystem::path out_, part_;
  Descriptor lock_;  // flock on the temporary folder: shows that its process is running
  bool force_ = false, resumed_ = false, owned_ = false;
};

}  // namespace quern::checkpoint
