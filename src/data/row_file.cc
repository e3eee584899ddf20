#include "data/row_file.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/utf8.h"
#include "data/parquet_rows.h"
#include "data/text_rows.h"

namespace quern::data {
namespace {

namespace fs = std::filesystem;

// A .txt file, which is one row.
class WholeText : public RowFile {
 public:
  WholeText(const fs::path& file, const RowLimits& limits)
      : name_(file.string()), text_(read_file(file, limits.text_bytes)) {
    if (!is_utf8(text_)) fail("{}: not valid UTF-8", name_);
  }

  int64_t size() const override { return text_.empty() ? 0 : 1; }
  Row row(int64_t) const override { return {{"text", text_}}; }
  std::string where(int64_t) const override { return name_; }

 private:
  std::string name_, text_;
};

std::unique_ptr<RowFile> open_any(const fs::path& file, const RowLimits& limits) {
  if (!fs::exists(file)) fail("{}: there is no such file", file.string());
  if (!fs::is_regular_file(file)) fail("{}: is not a file", file.string());
  const std::string kind = file.extension().string();
  if (kind == ".jsonl") return std::make_unique<JsonLines>(file, limits);
  if (kind == ".json") return std::make_unique<JsonObjects>(file, limits);
  if (kind == ".csv") return std::make_unique<CsvRows>(file, limits);
  if (kind == ".txt") return std::make_unique<WholeText>(file, limits);
  if (kind == ".parquet") return std::make_unique<ParquetRows>(file, limits);
  fail("{}: unknown extension; rows are read from .jsonl, .json, .csv, .txt and .parquet files",
       file.string());
}

}  // namespace

std::unique_ptr<RowFile> open_rows(const fs::path& file, const RowLimits& limits) {
  auto rows = open_any(file, limits);
  if (rows->size() == 0) fail("{}: the file contains no rows", file.string());
  return rows;
}

}  // namespace quern::data
