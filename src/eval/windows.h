// The pieces of a text that a model is scored on.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "prompt/tokenizer.h"

namespace quern::eval {

// A sequence of its own: nothing before its first token is known to the model.
struct Window {
  std::vector<int32_t> tokens;
  int64_t first_scored = 1;  // earlier tokens are context; >= 1
};

struct WindowOptions {
  int64_t length = 512;     // tokens
  int64_t stride = 0;       // from window to window; 0: length, so that windows do not overlap
  int64_t max_windows = 0;  // 0: all
  // Written before every window that does not begin with it, and one of its tokens:
  // nn::Model::bos().
  std::optional<int32_t> bos = {};
};

// With overlap every token is scored once, in the first window that holds it. A last window of one
// token is left out. Fails when the options make no sense or nothing remains to be scored.
std::vector<Window> cut_windows(std::span<const int32_t> tokens, const WindowOptions& options);

// The whole text is tokenized at once: special tokens are read where they are spelt out and none
// are added.
std::vector<Window> text_windows(std::string_view text, const prompt::Tokenizer& tokenizer,
                                 const WindowOptions& options);

// Consecutive windows of which so many bytes a token fit into the budget; at least one a group.
std::vector<std::span<const Window>> group_windows(std::span<const Window> windows,
                                                   int64_t bytes_a_token, int64_t budget);

}  // namespace quern::eval
