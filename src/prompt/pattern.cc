#include "prompt/pattern.h"

#include "prompt/ffi.h"

namespace quern::prompt {
namespace {

constexpr uint64_t kBacktracks = 1'000'000;

}  // namespace

Pattern::Pattern(const std::string& python_regex) : text_(python_regex) {
  QtPattern* pattern = nullptr;
  FfiBytes message;
  int32_t status = qt_pattern_new(text_.data(), text_.size(), kBacktracks, &pattern, message.out());
  require(status, message, fmt::format("pattern \"{}\"", text_));
  pattern_ = std::shared_ptr<const QtPattern>(
      pattern, [](const QtPattern* p) { qt_pattern_free(const_cast<QtPattern*>(p)); });
}

bool Pattern::match(std::string_view text) const {
  int32_t matched = 0;
  FfiBytes message;
  int32_t status =
      qt_pattern_match(pattern_.get(), text.data(), text.size(), &matched, message.out());
  require(status, message, fmt::format("pattern \"{}\"", text_));
  return matched != 0;
}

}  // namespace quern::prompt
