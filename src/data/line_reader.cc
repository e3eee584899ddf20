#include "data/line_reader.h"

#include <cstdint>

#include "base/error.h"
#include "base/utf8.h"

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

}  // namespace quern::data
