// `quern serve` as a child process on a core of its own, and what it takes of the machine.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "tests/scratch.h"

namespace quern::hostile {

// What the kernel says of a process.
struct Usage {
  int64_t resident_bytes = 0, peak_bytes = 0;
  int64_t files = 0;  // open descriptors
};

class ServedProgram {
 public:
  // program: quern; options: behind `quern serve MODEL --port 0`. Waits until it is ready; throws
  // std::runtime_error, with what it said, if it ends instead.
  ServedProgram(const std::string& program, const std::string& model,
                const std::vector<std::string>& options);
  // Stops it, by force if it takes longer than some seconds.
  ~ServedProgram();
  ServedProgram(const ServedProgram&) = delete;
  ServedProgram& operator=(const ServedProgram&) = delete;

  uint16_t port() const { return port_; }
  bool runs();
  Usage usage() const;
  // Peak memory counts from here on.
  void forget_peak() const;
  // What it wrote on standard error.
  std::string said() const;

 private:
  Scratch scratch_;
  pid_t pid_ = -1;
  uint16_t port_ = 0;
};

// The calling thread, and the threads that it starts, run on this core.
void stay_on_core(int core);

}  // namespace quern::hostile
