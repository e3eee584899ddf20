// Rows of a file by number. The file is mapped and indexed, and a row is parsed only on request, so
// a file may be larger than memory. The caller interprets the columns.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"

namespace quern::data {

// An object: column names to values, in the order of the file.
using Row = JsonValue;

struct RowLimits {
  size_t row_bytes = 64u << 20;
  size_t text_bytes = 1u << 30;  // of a .txt file, which is one row
  int depth = 64;                // of a JSON row
  // Later rows are not read.
  int64_t rows = std::numeric_limits<int64_t>::max();
};

class Rows {
 public:
  virtual ~Rows() = default;
  virtual int64_t size() const = 0;
  // Parses row `i`. Thread-safe. Fails with where().
  virtual Row row(int64_t i) const = 0;
  // "chats.jsonl, line 17" or "chats.parquet, row 17", for messages. Numbers start at 1.
  virtual std::string where(int64_t i) const = 0;
};

class RowFile : public Rows {
 public:
  // Announces the rows that row() will be called for, ascending. A file that can only be read from
  // front to back reads them here and holds their text. Returns the held bytes, and fails when they
  // exceed `most`.
  virtual size_t prepare(const std::vector<int64_t>& /*places*/, size_t /*most*/) { return 0; }
};

// By the file's extension:
//   .jsonl    one object per line; empty lines are skipped
//   .json     a list of objects, or consecutive objects (for example one per line)
//   .csv      RFC 4180 with a header row; every value is text
//   .txt      the whole file is one row with the column `text`
//   .parquet  uncompressed, snappy, gzip, zstd, brotli or lz4
// Text must be UTF-8; a byte order mark at the start is skipped. A file without rows is an error.
std::unique_ptr<RowFile> open_rows(const std::filesystem::path& file, const RowLimits& limits = {});

}  // namespace quern::data
