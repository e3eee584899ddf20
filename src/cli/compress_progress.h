// Reports the progress of a compression to people (a line for each block, and a bar on a terminal)
// or to programs (events).
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "cli/work_line.h"
#include "compress/compress.h"

namespace quern::cli {

enum class ProgressStyle {
  people,      // standard error
  json_lines,  // standard output, one object per line
};

class CompressProgress {
 public:
  explicit CompressProgress(ProgressStyle style) : style_(style), line_("compressing") {}

  // Valid for the lifetime of this object.
  compress::Progress callbacks();

 private:
  void begin_block(int block, int blocks, const std::string& name);
  void end_iteration(int iteration, int iterations);
  void end_block(const compress::BlockReport& report);
  double seconds_left(int blocks_left) const;

  ProgressStyle style_;
  WorkLine line_;
  int block_ = 0, blocks_ = 0;
  std::vector<double> block_seconds_;
};

// "block 3/40: 72 linears, loss 0.0123 -> 0.0045 (iteration 187), tokens per expert min ..."
std::string to_text(const compress::BlockReport& report);
JsonValue to_json(const compress::BlockReport& report);

}  // namespace quern::cli
