#include "eval/windows.h"

#include <algorithm>

#include "base/error.h"

namespace quern::eval {

std::vector<Window> cut_windows(std::span<const int32_t> tokens, const WindowOptions& options) {
  const int64_t room = options.bos ? options.length - 1 : options.length;  // for the text
  const int64_t stride = options.stride == 0 ? room : options.stride;
  if (options.length < 2 || stride < 1 || stride > room) {
    fail(Exit::usage,
         "windows of {} tokens every {} tokens: a window needs at least 2 tokens, and the stride "
         "must be 1 to its length",
         options.length, stride);
  }
  const int64_t total = static_cast<int64_t>(tokens.size());
  std::vector<Window> windows;
  for (int64_t begin = 0, done = 0; done < total; begin += stride) {
    const bool enough =
        options.max_windows > 0 && static_cast<int64_t>(windows.size()) == options.max_windows;
    if (enough) break;
    const int64_t end = std::min(begin + room, total);
    Window window{{tokens.begin() + begin, tokens.begin() + end}, done - begin};
    if (options.bos && window.tokens.front() != *options.bos) {
      window.tokens.insert(window.tokens.begin(), *options.bos);
      ++window.first_scored;
    }
    window.first_scored = std::max<int64_t>(window.first_scored, 1);
    if (std::ssize(window.tokens) > window.first_scored) windows.push_back(std::move(window));
    done = end;
  }
  if (windows.empty())
    fail(
        "the text is {} tokens long; give a longer one, because only tokens after another are "
        "scored",
        total);
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
