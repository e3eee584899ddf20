// Lines of a text file with their numbers, with a bound on the length of one.
#pragma once

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <string>

namespace quern::data {

class LineReader {
 public:
  LineReader(const std::filesystem::path& file, size_t line_bytes);

  // Without its line break (LF or CR LF); a byte order mark at the start of the file is left out.
  // False at the end. Fails when a line is too long or not UTF-8.
  bool next(std::string& line);

  size_t number() const { return number_; }  // of the last line; the first is 1
  std::string where() const;                 // "file line 3", for messages

 private:
  bool fill();

  std::string name_;
  std::ifstream stream_;
  size_t line_bytes_;
  size_t number_ = 0;
  std::string buffer_;
  size_t at_ = 0;
};

}  // namespace quern::data
