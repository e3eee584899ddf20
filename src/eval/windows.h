// The pieces of a text on which a model is scored.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "prompt/tokenizer.h"

namespace quern::eval {

// A separate sequence: the model sees nothing before its first token.
struct Window {
  std::vector<int32_t> tokens;
  int64_t first_scored = 1;  // earlier tokens are context; >= 1
};

struct WindowOptions {
  int64_t length = 512;     // tokens
  int64_t stride = 0;       // between window starts; 0: length, without overlap
  int64_t max_windows = 0;  // 0: all
  // Prepended to every window that does not begin with it, and counted in its length:
  // nn::Model::bos().
  std::optional<int32_t> bos = {};
};

// With overlap, every token is scored once, in the first window that contains it. A last window of
// one token is dropped. Fails on invalid options and if no token can be scored.
std::vector<Window> cut_windows(std::span<const int32_t> tokens, const WindowOptions& options);

// Tokenizes the whole text at once: special tokens in the text are recognized, and none are added.
std::vector<Window> text_windows(std::string_view text, const prompt::Tokenizer& tokenizer,
                                 const WindowOptions& options);

// Groups consecutive windows whose states fit into the budget, at the given bytes per token; at
// least one window per group.
std::vector<std::span<const Window>> group_windows(std::span<const Window> windows,
                                                   int64_t bytes_a_token, int64_t budget);

}  // namespace quern::eval
