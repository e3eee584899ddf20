// Consecutive rows of a text file: the ends of all rows are found once, and a row is parsed on
// request.
#pragma once

#include <string_view>

#include "base/file.h"
#include "data/row_file.h"

namespace quern::data {

class TextRows : public RowFile {
 public:
  TextRows(const std::filesystem::path& file, const RowLimits& limits);

  int64_t size() const override { return std::ssize(spans_); }
  Row row(int64_t i) const override;
  std::string where(int64_t i) const override;

 protected:
  struct Span {
    size_t begin, end;  // bytes of text()
    int64_t number;     // of its line, or of the row in a list; starts at 1
  };

  virtual Row parse(std::string_view text, const std::string& where) const = 0;

  std::string_view text() const { return text_; }
  const RowLimits& limits() const { return limits_; }
  bool full() const { return size() >= limits_.rows; }
  // Fails when the span is too long for a row.
  void add(Span span);
  std::string where(const Span& span) const;
  std::string at_line_of(size_t byte) const;  // "file, line 3"

  const std::string name_;
  const char* unit_ = "line";  // the unit of Span::number

 private:
  MappedFile file_;
  std::string_view text_;
  RowLimits limits_;
  std::vector<Span> spans_;
};

// .jsonl
class JsonLines : public TextRows {
 public:
  JsonLines(const std::filesystem::path& file, const RowLimits& limits);

 private:
  Row parse(std::string_view text, const std::string& where) const override;
};

// .json
class JsonObjects : public TextRows {
 public:
  JsonObjects(const std::filesystem::path& file, const RowLimits& limits);

 private:
  void index_list(size_t at);
  void index_stream(size_t at);
  size_t past_space(size_t at) const;
  // The position after the value that starts at `at`.
  size_t past_value(size_t at) const;
  size_t past_string(size_t at) const;
  [[noreturn]] void refuse(size_t at) const;
  Row parse(std::string_view text, const std::string& where) const override;
};

// .csv
class CsvRows : public TextRows {
 public:
  CsvRows(const std::filesystem::path& file, const RowLimits& limits);

 private:
  using Fields = std::vector<std::string>;
  void check_header(std::string_view record) const;
  // Each skips the record or field of `text` that starts at `at`, stores it unless the pointer is
  // null, and returns the position after it.
  size_t past_record(std::string_view text, size_t at, Fields* fields) const;
  size_t past_plain(std::string_view text, size_t at, std::string* field) const;
  size_t past_quoted(std::string_view text, size_t at, std::string* field) const;
  [[noreturn]] void refuse(std::string_view part, size_t at, std::string_view what) const;
  Row parse(std::string_view text, const std::string& where) const override;

  Fields header_;
};

}  // namespace quern::data
