#include "data/line_reader.h"

#include <cstdint>

#include "base/error.h"

namespace quern::data {
namespace {

constexpr size_t kChunk = 1u << 20;
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

}  // namespace

LineReader::LineReader(const std::filesystem::path& file, size_t line_bytes)
    : name_(file.string()), stream_(file, std::ios::binary), line_bytes_(line_bytes) {
  if (!stream_) fail("{}: cannot be opened", name_);
}

std::string LineReader::where() const { return fmt::format("{} line {}", name_, number_); }

bool LineReader::fill() {
  buffer_.resize(kChunk);
  stream_.read(buffer_.data(), kChunk);
  buffer_.resize(static_cast<size_t>(stream_.gcount()));
  at_ = 0;
  if (stream_.bad()) fail("{}: reading failed after line {}", name_, number_);
  return !buffer_.empty();
}

bool LineReader::next(std::string& line) {
  line.clear();
  if (at_ == buffer_.size() && !fill()) return false;
  ++number_;
  while (true) {
    const size_t end = buffer_.find('\n', at_);
    const size_t stop = end == std::string::npos ? buffer_.size() : end;
    if (line.size() + (stop - at_) > line_bytes_) {
      fail("{}: longer than {} bytes", where(), line_bytes_);
    }
    line.append(buffer_, at_, stop - at_);
    at_ = end == std::string::npos ? stop : end + 1;
    if (end != std::string::npos || !fill()) break;
  }
  if (line.ends_with('\r')) line.pop_back();
  if (number_ == 1 && line.starts_with(kByteOrderMark)) line.erase(0, kByteOrderMark.size());
  if (!is_utf8(line)) fail("{}: not valid UTF-8", where());
  return true;
}

// RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF.
bool is_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const auto byte = [&](size_t k) { return static_cast<uint8_t>(text[k]); };
    const uint8_t lead = byte(i++);
    if (lead < 0x80) continue;
    const size_t more = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : 1;
    if (lead < 0xC2 || lead > 0xF4 || text.size() - i < more) return false;
    const uint8_t low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    const uint8_t high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (byte(i) < low || byte(i) > high) return false;
    for (size_t k = 1; k < more; ++k) {
      if ((byte(i + k) & 0xC0) != 0x80) return false;
    }
    i += more;
  }
  return true;
}

}  // namespace quern::data
