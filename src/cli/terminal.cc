#include "cli/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/error.h"

namespace quern::cli {
namespace {

std::string color_choice = "auto";

bool is_set(const char* variable) {
  const char* value = std::getenv(variable);
  return value && *value;
}

bool dumb() {
  const char* term = std::getenv("TERM");
  return term && std::strcmp(term, "dumb") == 0;
}

bool wants_colors(bool interactive) {
  if (color_choice != "auto") return color_choice == "always";
  if (is_set("NO_COLOR")) return false;
  if (is_set("CLICOLOR_FORCE") && std::strcmp(std::getenv("CLICOLOR_FORCE"), "0") != 0) return true;
  return interactive;
}

bool is_number(const std::string& cell) {
  return !cell.empty() && (std::isdigit(static_cast<unsigned char>(cell[0])) || cell[0] == '-');
}

}  // namespace

Terminal::Terminal(int descriptor)
    : descriptor_(descriptor),
      interactive_(::isatty(descriptor) && !dumb()),
      colors_(wants_colors(interactive_)) {}

int Terminal::columns() const {
  winsize size{};
  if (::ioctl(descriptor_, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

std::string Terminal::styled(const char* code, std::string_view text) const {
  if (!colors_) return std::string(text);
  return fmt::format("\x1b[{}m{}\x1b[0m", code, text);
}

const Terminal& standard_output() {
  static const Terminal terminal(STDOUT_FILENO);
  return terminal;
}

const Terminal& standard_error() {
  static const Terminal terminal(STDERR_FILENO);
  return terminal;
}

void set_colors(const std::string& when) { color_choice = when; }

Table::Table(std::vector<std::string> header) : rows_{std::move(header)} {}

void Table::add(std::vector<std::string> row) {
  QUERN_CHECK(row.size() == rows_[0].size());
  rows_.push_back(std::move(row));
}

std::string Table::text(const Terminal& terminal) const {
  const size_t columns = rows_[0].size();
  std::vector<size_t> widths(columns, 0);
  for (const auto& row : rows_)
    for (size_t c = 0; c < columns; ++c) widths[c] = std::max(widths[c], row[c].size());
  std::string text;
  for (size_t r = 0; r < rows_.size(); ++r) {
    std::string line;
    for (size_t c = 0; c < columns; ++c) {
      const std::string& cell = rows_[r][c];
      const bool right = is_number(rows_[std::min(r + 1, rows_.size() - 1)][c]) || is_number(cell);
      const bool last = c + 1 == columns;
      line += right  ? fmt::format("{:>{}}", cell, widths[c])
              : last ? cell
                     : fmt::format("{:<{}}", cell, widths[c]);
      if (!last) line += "  ";
    }
    text += (r == 0 ? terminal.bold(line) : line) + "\n";
  }
  return text;
}

std::string bytes_text(size_t bytes) {
  const char* units[] = {"bytes", "kB", "MB", "GB", "TB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  for (; value >= 1000 && unit + 1 < std::size(units); ++unit) value /= 1000;
  return unit == 0 ? fmt::format("{} bytes", bytes) : fmt::format("{:.2f} {}", value, units[unit]);
}

std::string gib_text(size_t bytes) {
  return fmt::format("{:.3f} GiB", static_cast<double>(bytes) / (1u << 30));
}

std::string count_text(int64_t count) {
  std::string digits = std::to_string(count);
  const size_t sign = count < 0 ? 1 : 0;
  for (size_t at = digits.size(); at > sign + 3;) digits.insert(at -= 3, 1, ',');
  return digits;
}

std::string time_text(double seconds) {
  if (seconds < 59.95) return fmt::format("{:.1f} s", seconds);
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  return fmt::format("{} h {:02} min", whole / 3600, whole % 3600 / 60);
}

std::string progress_bar(double part, int columns) {
  const int inner = std::max(columns - 2, 1);
  const int full = std::clamp(static_cast<int>(part * inner), 0, inner);
  return fmt::format("[{:#>{}}{:->{}}]", "", full, "", inner - full);
}

void print(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
    fail(Exit::disk, "standard output: {}", std::strerror(errno));
}

}  // namespace quern::cli
