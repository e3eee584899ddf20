#include "data/parquet_rows.h"

#include <quern_text_ffi.h>

#include <nlohmann/json.hpp>

#include "base/error.h"

namespace quern::data {
namespace {

// The limit of rows; a few bytes of a file can claim any number.
constexpr uint64_t kMostRows = 1u << 28;

std::string take(QtBytes bytes) {
  std::string text;
  if (bytes.size > 0) text.assign(reinterpret_cast<const char*>(bytes.data), bytes.size);
  qt_free(bytes);
  return text;
}

// One pass over the file.
class Reader {
 public:
  Reader(const std::string& file, size_t row_bytes) : name_(file) {
    QtBytes message{};
    const int32_t status = qt_rows_open(file.data(), file.size(), row_bytes, &rows_, &message);
    check(status, message, name_);
  }
  ~Reader() { qt_rows_free(rows_); }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  uint64_t size() const { return qt_rows_count(rows_); }

  void skip(int64_t rows, const std::string& where) {
    QtBytes message{};
    check(qt_rows_skip(rows_, static_cast<uint64_t>(rows), &message), message, where);
  }

  std::string next(const std::string& where) {
    QtBytes out{};
    return check(qt_rows_next(rows_, &out), out, where);
  }

 private:
  static std::string check(int32_t status, QtBytes bytes, const std::string& where) {
    std::string text = take(bytes);
    if (status == QT_END) fail("{}: the file ends before this row", where);
    if (status != QT_OK) fail("{}: {}", where, text);
    return text;
  }

  std::string name_;
  QtRows* rows_ = nullptr;
};

}  // namespace

ParquetRows::ParquetRows(const std::filesystem::path& file, const RowLimits& limits)
    : name_(file.string()), limits_(limits) {
  const uint64_t rows = Reader(name_, limits.row_bytes).size();
  if (rows > kMostRows) fail("{}: {} rows exceed the limit of {}", name_, rows, kMostRows);
  size_ = std::min(static_cast<int64_t>(rows), limits.rows);
}

size_t ParquetRows::prepare(const std::vector<int64_t>& places, size_t most) {
  Reader reader(name_, limits_.row_bytes);
  size_t held = 0;
  int64_t at = 0;
  for (const int64_t place : places) {
    reader.skip(place - at, where(place));
    std::string text = reader.next(where(place));
    held += text.size();
    if (held > most)
      fail("{}: the rows take more than {} MiB; take fewer with {}=COUNT", name_, most >> 20,
           name_);
    held_.emplace_hint(held_.end(), place, std::move(text));
    at = place + 1;
  }
  return held;
}

Row ParquetRows::row(int64_t i) const {
  const auto found = held_.find(i);
  QUERN_CHECK(found != held_.end());
  return parse_json(found->second, where(i), {.bytes = limits_.row_bytes, .depth = limits_.depth});
}

std::string ParquetRows::where(int64_t i) const { return fmt::format("{}, row {}", name_, i + 1); }

}  // namespace quern::data
