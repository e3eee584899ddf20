// Rows out of files, one at a time, so that a file may be larger than memory. What the columns mean
// is for the reader's user to say.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>

#include "base/json.h"

namespace quern::data {

// An object: column names to values, in the order of the file.
using Row = JsonValue;

struct RowLimits {
  size_t row_bytes = 64u << 20;
  size_t text_bytes = 1u << 30;  // of a .txt file, which is one row
  int depth = 64;                // of a JSON row
};

class RowReader {
 public:
  virtual ~RowReader() = default;
  // Stores the next row; false at the end of the file. Fails with file and line.
  virtual bool next(Row& row) = 0;
};

// By the file's extension:
//   .jsonl    one object a line; empty lines are skipped
//   .json     a list of objects (read whole)
//   .csv      RFC 4180 with a header row; every value is text
//   .txt      the whole file is one row with the column `text`
//   .parquet  uncompressed, snappy or gzip
// Text must be UTF-8. A file without rows is an error.
std::unique_ptr<RowReader> open_rows(const std::filesystem::path& file,
                                     const RowLimits& limits = {});

}  // namespace quern::data
