// Terminal output: colours, an updating line, tables, and readable numbers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace quern::cli {

// A stream that may be a terminal: standard output or standard error.
class Terminal {
 public:
  explicit Terminal(int descriptor);

  // Whether it is a terminal that can move the cursor: not a pipe, a file or TERM=dumb.
  bool interactive() const { return interactive_; }
  int columns() const;

  std::string bold(std::string_view text) const { return styled("1", text); }
  std::string dim(std::string_view text) const { return styled("2", text); }
  std::string red(std::string_view text) const { return styled("31", text); }

 private:
  std::string styled(const char* code, std::string_view text) const;

  int descriptor_;
  bool interactive_;
  bool colors_;
};

const Terminal& standard_output();
const Terminal& standard_error();

// "auto" (the initial value), "always" or "never". NO_COLOR, CLICOLOR_FORCE and TERM decide for
// "auto".
void set_colors(const std::string& when);

// Columns have the width of their widest cell; numbers are right-aligned.
class Table {
 public:
  explicit Table(std::vector<std::string> header);
  void add(std::vector<std::string> row);
  std::string text(const Terminal& terminal) const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

std::string bytes_text(size_t bytes);                // "14.48 MB"
std::string gib_text(size_t bytes);                  // "0.013 GiB"
std::string count_text(int64_t count);               // "30,850"
std::string time_text(double seconds);               // "3.2 s", "12 min 05 s", "10 h 30 min"
std::string progress_bar(double part, int columns);  // "[####------]"

// Writes all of `text` to standard output; fails with Exit::disk if that is impossible.
void print(std::string_view text);

}  // namespace quern::cli
