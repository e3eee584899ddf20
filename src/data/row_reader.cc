#include "data/row_reader.h"

#include <quern_text_ffi.h>

#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/utf8.h"
#include "data/line_reader.h"

namespace quern::data {
namespace {

namespace fs = std::filesystem;

bool is_blank(const std::string& line) {
  return line.find_first_not_of(" \t") == std::string::npos;
}

class JsonlRows : public RowReader {
 public:
  JsonlRows(const fs::path& file, const RowLimits& limits)
      : lines_(file, limits.row_bytes), limits_(limits) {}

  bool next(Row& row) override {
    std::string line;
    do {
      if (!lines_.next(line)) return false;
    } while (is_blank(line));
    row = parse_json(line, lines_.where(), {.bytes = limits_.row_bytes, .depth = limits_.depth});
    if (!row.is_object()) {
      fail("{}: a row must be an object, found {}", lines_.where(), row.type_name());
    }
    return true;
  }

 private:
  LineReader lines_;
  RowLimits limits_;
};

class JsonRows : public RowReader {
 public:
  JsonRows(const fs::path& file, const RowLimits& limits)
      : name_(file.string()), rows_(read_json(file, {.depth = limits.depth})) {
    if (!rows_.is_array()) {
      fail("{}: must hold a list of objects, found {}; one object a line is .jsonl", name_,
           rows_.type_name());
    }
  }

  bool next(Row& row) override {
    if (at_ == rows_.size()) return false;
    row = std::move(rows_[at_++]);
    if (!row.is_object()) {
      fail("{}: entry {} must be an object, found {}", name_, at_ - 1, row.type_name());
    }
    return true;
  }

 private:
  std::string name_;
  JsonValue rows_;
  size_t at_ = 0;
};

class CsvRows : public RowReader {
 public:
  CsvRows(const fs::path& file, const RowLimits& limits)
      : lines_(file, limits.row_bytes), row_bytes_(limits.row_bytes) {
    if (!record(header_)) return;
    std::set<std::string> names(header_.begin(), header_.end());
    if (names.size() != header_.size()) fail("{}: a column name comes twice", lines_.where());
  }

  bool next(Row& row) override {
    std::vector<std::string> fields;
    if (!record(fields)) return false;
    if (fields.size() != header_.size()) {
      fail("{}: {} fields, the header names {} columns", lines_.where(), fields.size(),
           header_.size());
    }
    row = Row::object();
    for (size_t i = 0; i < fields.size(); ++i) row[header_[i]] = std::move(fields[i]);
    return true;
  }

 private:
  // One record, which may span lines where a quoted field holds line breaks.
  bool record(std::vector<std::string>& fields) {
    fields.clear();
    std::string line;
    do {
      if (!lines_.next(line)) return false;
    } while (line.empty());
    const std::string start = lines_.where();
    for (size_t at = 0; at <= line.size();) {
      fields.emplace_back();
      at = at < line.size() && line[at] == '"' ? quoted(line, at + 1, fields.back(), start)
                                               : plain(line, at, fields.back());
    }
    return true;
  }

  // Each stores the field that starts at `at` and gives the place behind its comma, which is one
  // past the line's end after the last field.
  size_t plain(const std::string& line, size_t at, std::string& field) {
    const size_t end = std::min(line.find(',', at), line.size());
    field = line.substr(at, end - at);
    if (field.find('"') != std::string::npos) {
      fail("{}: a quotation mark inside a field that is not quoted", lines_.where());
    }
    return end + 1;
  }

  size_t quoted(std::string& line, size_t at, std::string& field, const std::string& start) {
    while (true) {
      const size_t mark = line.find('"', at);
      field.append(line, at, std::min(mark, line.size()) - at);
      if (field.size() > row_bytes_) fail("{}: longer than {} bytes", start, row_bytes_);
      if (mark == std::string::npos) {
        field += '\n';
        if (!lines_.next(line)) fail("{}: a quoted field does not end", start);
        at = 0;
      } else if (mark + 1 < line.size() && line[mark + 1] == '"') {
        field += '"';
        at = mark + 2;
      } else if (mark + 1 == line.size() || line[mark + 1] == ',') {
        return mark + 2;
      } else {
        fail("{}: text behind the closing quotation mark of a field", lines_.where());
      }
    }
  }

  LineReader lines_;
  size_t row_bytes_;
  std::vector<std::string> header_;
};

class TextRows : public RowReader {
 public:
  TextRows(const fs::path& file, const RowLimits& limits) {
    std::string text = read_file(file, limits.text_bytes);
    if (!is_utf8(text)) fail("{}: not valid UTF-8", file.string());
    if (!text.empty()) row_["text"] = std::move(text);
  }

  bool next(Row& row) override {
    if (row_.is_null()) return false;
    row = std::move(row_);
    row_ = nullptr;
    return true;
  }

 private:
  Row row_;
};

class ParquetRows : public RowReader {
 public:
  ParquetRows(const fs::path& file, const RowLimits& limits)
      : name_(file.string()), limits_(limits) {
    QtBytes message{};
    const int32_t status =
        qt_rows_open(name_.data(), name_.size(), limits.row_bytes, &rows_, &message);
    const std::string text = take(message);
    if (status != QT_OK) fail("{}: {}", name_, text);
  }
  ~ParquetRows() override { qt_rows_free(rows_); }
  ParquetRows(const ParquetRows&) = delete;
  ParquetRows& operator=(const ParquetRows&) = delete;

  bool next(Row& row) override {
    QtBytes out{};
    const int32_t status = qt_rows_next(rows_, &out);
    const std::string text = take(out);
    if (status == QT_END) return false;
    ++number_;
    const std::string where = fmt::format("{} row {}", name_, number_);
    if (status != QT_OK) fail("{}: {}", where, text);
    row = parse_json(text, where, {.bytes = limits_.row_bytes, .depth = limits_.depth});
    return true;
  }

 private:
  static std::string take(QtBytes bytes) {
    std::string text;
    if (bytes.size > 0) text.assign(reinterpret_cast<const char*>(bytes.data), bytes.size);
    qt_free(bytes);
    return text;
  }

  std::string name_;
  RowLimits limits_;
  QtRows* rows_ = nullptr;
  size_t number_ = 0;
};

// Refuses a file that ends before its first row.
class NotEmpty : public RowReader {
 public:
  NotEmpty(std::unique_ptr<RowReader> rows, std::string name)
      : rows_(std::move(rows)), name_(std::move(name)) {}

  bool next(Row& row) override {
    const bool found = rows_->next(row);
    if (!found && !any_) fail("{}: there are no rows in this file", name_);
    any_ = true;
    return found;
  }

 private:
  std::unique_ptr<RowReader> rows_;
  std::string name_;
  bool any_ = false;
};

std::unique_ptr<RowReader> open_any(const fs::path& file, const RowLimits& limits) {
  if (!fs::exists(file)) fail("{}: there is no such file", file.string());
  if (!fs::is_regular_file(file)) fail("{}: is not a file", file.string());
  const std::string kind = file.extension().string();
  if (kind == ".jsonl") return std::make_unique<JsonlRows>(file, limits);
  if (kind == ".json") return std::make_unique<JsonRows>(file, limits);
  if (kind == ".csv") return std::make_unique<CsvRows>(file, limits);
  if (kind == ".txt") return std::make_unique<TextRows>(file, limits);
  if (kind == ".parquet") return std::make_unique<ParquetRows>(file, limits);
  fail("{}: rows are read from .jsonl, .json, .csv, .txt and .parquet files", file.string());
}

}  // namespace

std::unique_ptr<RowReader> open_rows(const fs::path& file, const RowLimits& limits) {
  return std::make_unique<NotEmpty>(open_any(file, limits), file.string());
}

}  // namespace quern::data
