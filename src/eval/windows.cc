#include "eval/windows.h"

#include <algorithm>

#include "base/error.h"

namespace quern::eval {

std::vector<Window> cut_windows(std::span<const int32_t> tokens, const WindowOptions& options) {
  const int64_t stride = options.stride == 0 ? options.length : options.stride;
  if (options.length < 2 || stride < 1 || stride > options.length) {
    fail(Exit::usage,
         "windows of {} tokens every {} tokens: a window needs 2 tokens or more, and a stride from "
         "1 to its length",
         options.length, stride);
  }
  const int64_t total = static_cast<int64_t>(tokens.size());
  std::vector<Window> windows;
  for (int64_t begin = 0, done = 0; done < total; begin += stride) {
    const bool enough =
        options.max_windows > 0 && static_cast<int64_t>(windows.size()) == options.max_windows;
    if (enough) break;
    const int64_t end = std::min(begin + options.length, total);
    const int64_t first = std::max<int64_t>(done - begin, 1);
    if (end - begin > first) {
      windows.push_back({{tokens.begin() + begin, tokens.begin() + end}, first});
    }
    done = end;
  }
  if (windows.empty())
    fail("the text is {} tokens long, but only tokens that follow another are scored", total);
  return windows;
}

std::vector<Window> text_windows(std::string_view text, const prompt::Tokenizer& tokenizer,
                                 const WindowOptions& options) {
  return cut_windows(tokenizer.encode(text, prompt::Special::none), options);
}

std::vector<std::span<const Window>> group_windows(std::span<const Window> windows,
                                                   int64_t bytes_a_token, int64_t budget) {
  std::vector<std::span<const Window>> groups;
  for (size_t first = 0; first < windows.size();) {
    size_t end = first;
    int64_t bytes = 0;
    do {
      bytes += std::ssize(windows[end++].tokens) * bytes_a_token;
    } while (end < windows.size() &&
             bytes + std::ssize(windows[end].tokens) * bytes_a_token <= budget);
    groups.push_back(windows.subspan(first, end - first));
    first = end;
  }
  return groups;
}

}  // namespace quern::eval
