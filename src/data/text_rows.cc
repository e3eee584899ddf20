#include "data/text_rows.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "base/utf8.h"

namespace quern::data {
namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

// The position after the line break of the line with `at`, or the end.
size_t past_line(std::string_view text, size_t at) {
  const size_t end = text.find('\n', at);
  return end == std::string_view::npos ? text.size() : end + 1;
}

// The line without its line break, LF or CR LF.
std::string_view without_break(std::string_view line) {
  if (line.ends_with('\n')) line.remove_suffix(1);
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

// Appends `text` with every line break as LF.
void append_lines(std::string_view text, std::string& to) {
  for (size_t end; (end = text.find("\r\n")) != std::string_view::npos;) {
    to.append(text.substr(0, end)) += '\n';
    text.remove_prefix(end + 2);
  }
  to.append(text);
}

Row parse_object(std::string_view text, const std::string& where, const RowLimits& limits) {
  Row row = parse_json(text, where, {.bytes = limits.row_bytes, .depth = limits.depth});
  if (!row.is_object()) fail("{}: a row must be an object, found {}", where, row.type_name());
  return row;
}

}  // namespace

TextRows::TextRows(const std::filesystem::path& file, const RowLimits& limits)
    : name_(file.string()), file_(file), limits_(limits) {
  text_ = {reinterpret_cast<const char*>(file_.bytes().data()), file_.bytes().size()};
  if (text_.starts_with(kByteOrderMark)) text_.remove_prefix(kByteOrderMark.size());
}

Row TextRows::row(int64_t i) const {
  const Span& span = spans_.at(static_cast<size_t>(i));
  const std::string_view text = text_.substr(span.begin, span.end - span.begin);
  if (!is_utf8(text)) fail("{}: not valid UTF-8", where(span));
  return parse(text, where(span));
}

std::string TextRows::where(int64_t i) const { return where(spans_.at(static_cast<size_t>(i))); }

std::string TextRows::where(const Span& span) const {
  return fmt::format("{}, {} {}", name_, unit_, span.number);
}

std::string TextRows::at_line_of(size_t byte) const {
  const auto from = text_.begin();
  return fmt::format("{}, line {}", name_,
                     1 + std::count(from, from + static_cast<std::ptrdiff_t>(byte), '\n'));
}

void TextRows::add(Span span) {
  if (span.end - span.begin > limits_.row_bytes)
    fail("{}: longer than {} bytes", where(span), limits_.row_bytes);
  spans_.push_back(span);
}

JsonLines::JsonLines(const std::filesystem::path& file, const RowLimits& limits)
    : TextRows(file, limits) {
  int64_t line = 0;
  for (size_t at = 0, next; at < text().size() && !full(); at = next) {
    next = past_line(text(), at);
    ++line;
    const std::string_view found = without_break(text().substr(at, next - at));
    if (found.find_first_not_of(" \t") != std::string_view::npos)
      add({at, at + found.size(), line});
  }
}

Row JsonLines::parse(std::string_view text, const std::string& where) const {
  return parse_object(text, where, limits());
}

JsonObjects::JsonObjects(const std::filesystem::path& file, const RowLimits& limits)
    : TextRows(file, limits) {
  const size_t at = past_space(0);
  if (at == text().size()) return;
  if (text()[at] == '[') {
    unit_ = "row";
    index_list(at + 1);
  } else {
    index_stream(at);
  }
}

void JsonObjects::index_list(size_t at) {
  at = past_space(at);
  bool more = !text().substr(at).starts_with(']');
  while (more && !full()) {
    const size_t end = past_value(at);
    add({at, end, size() + 1});
    at = past_space(end);
    more = text().substr(at).starts_with(',');
    if (more) at = past_space(at + 1);
  }
  if (more) return;
  if (!text().substr(at).starts_with(']')) refuse(at);
  if (past_space(at + 1) < text().size()) refuse(past_space(at + 1));
}

void JsonObjects::index_stream(size_t at) {
  int64_t line = 1;
  const auto begin = text().begin();
  for (size_t seen = 0; at < text().size() && !full();) {
    if (text()[at] != '{')
      fail("{}: expected a list of objects, or consecutive objects", at_line_of(at));
    line += std::count(begin + static_cast<std::ptrdiff_t>(seen),
                       begin + static_cast<std::ptrdiff_t>(at), '\n');
    seen = at;
    const size_t end = past_value(at);
    add({at, end, line});
    at = past_space(end);
  }
}

size_t JsonObjects::past_space(size_t at) const {
  return std::min(text().find_first_not_of(" \t\r\n", at), text().size());
}

size_t JsonObjects::past_value(size_t at) const {
  int64_t open = 0;
  const size_t begin = at;
  while (at < text().size()) {
    const char c = text()[at];
    const bool closes = c == '}' || c == ']';
    if (open == 0 && (closes || std::string_view(", \t\r\n").find(c) != std::string_view::npos))
      break;
    at = c == '"' ? past_string(at) : at + 1;
    open += c == '{' || c == '[';
    if (closes && --open == 0) return at;
  }
  if (open > 0) fail("{}: this row is not closed", at_line_of(begin));
  if (at == begin) refuse(at);
  return at;
}

size_t JsonObjects::past_string(size_t at) const {
  const size_t begin = at;
  for (++at; at < text().size(); ++at) {
    if (text()[at] == '"') return at + 1;
    if (text()[at] == '\\') ++at;
  }
  fail("{}: a string is not closed", at_line_of(begin));
}

void JsonObjects::refuse(size_t at) const {
  if (at >= text().size()) fail("{}: the list is not closed", name_);
  fail("{}: not valid JSON at byte {}, near \"{}\"", at_line_of(at), at, text()[at]);
}

Row JsonObjects::parse(std::string_view text, const std::string& where) const {
  return parse_object(text, where, limits());
}

CsvRows::CsvRows(const std::filesystem::path& file, const RowLimits& limits)
    : TextRows(file, limits) {
  int64_t line = 1;
  bool header = true;
  for (size_t at = 0, next; at < text().size() && !full(); at = next) {
    next = past_line(text(), at);
    if (!without_break(text().substr(at, next - at)).empty()) {
      next = past_record(text(), at, header ? &header_ : nullptr);
      if (header) {
        check_header(text().substr(at, next - at));
      } else {
        add({at, next, line});
      }
      header = false;
    }
    line += std::count(text().data() + at, text().data() + next, '\n');
  }
}

void CsvRows::check_header(std::string_view record) const {
  if (!is_utf8(record)) refuse(record, 0, "not valid UTF-8");
  if (std::set(header_.begin(), header_.end()).size() != header_.size())
    refuse(record, 0, "a column name appears twice");
}

size_t CsvRows::past_record(std::string_view text, size_t at, Fields* fields) const {
  while (true) {
    std::string* field = fields ? &fields->emplace_back() : nullptr;
    const bool quoted = at < text.size() && text[at] == '"';
    at = quoted ? past_quoted(text, at, field) : past_plain(text, at, field);
    if (at == text.size() || text[at] != ',') return past_line(text, at);
    ++at;
  }
}

size_t CsvRows::past_plain(std::string_view text, size_t at, std::string* field) const {
  const size_t comma = std::min(text.find_first_of(",\n", at), text.size());
  std::string_view found = text.substr(at, comma - at);
  if (comma == text.size() || text[comma] == '\n') found = without_break(found);
  if (found.find('"') != std::string_view::npos)
    refuse(text, at, "a quotation mark inside a field that is not quoted");
  if (field) *field = found;
  return at + found.size();
}

size_t CsvRows::past_quoted(std::string_view text, size_t at, std::string* field) const {
  const size_t begin = at++;
  while (true) {
    const size_t mark = text.find('"', at);
    if (mark == std::string_view::npos) refuse(text, begin, "a quoted field is not closed");
    if (field) append_lines(text.substr(at, mark - at), *field);
    at = mark + 1;
    if (!text.substr(at).starts_with('"')) break;
    if (field) *field += '"';
    ++at;
  }
  const std::string_view rest = text.substr(at, past_line(text, at) - at);
  if (!without_break(rest).empty() && !rest.starts_with(','))
    refuse(text, at, "text after the closing quotation mark of a field");
  return at;
}

void CsvRows::refuse(std::string_view part, size_t at, std::string_view what) const {
  fail("{}: {}", at_line_of(static_cast<size_t>(part.data() - text().data()) + at), what);
}

Row CsvRows::parse(std::string_view text, const std::string& where) const {
  Fields fields;
  past_record(text, 0, &fields);
  if (fields.size() != header_.size())
    fail("{}: {} fields, but the header has {} columns", where, fields.size(), header_.size());
  Row row = Row::object();
  for (size_t i = 0; i < fields.size(); ++i) row[header_[i]] = std::move(fields[i]);
  return row;
}

}  // namespace quern::data
