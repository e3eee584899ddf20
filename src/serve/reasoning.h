// Which part of an answer is thought and which is said. Models mark thoughts with a token before
// and one after; templates may have written the first one already.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "prompt/tokenizer.h"

namespace quern::serve {

struct ReasoningMarks {
  int32_t open = 0, close = 0;  // token ids
  std::string open_text, close_text;
  std::string title;  // first line of a thought, which is not part of it: "thought\n" of Gemma 4
};

// `parser`: a name that vLLM's --reasoning-parser knows, "auto" (marks that both the vocabulary and
// `template_text` have) or "none". Fails with Exit::usage for an unknown name or missing tokens.
std::optional<ReasoningMarks> reasoning_marks(const std::string& parser,
                                              const prompt::Tokenizer& tokenizer,
                                              std::string_view template_text);

enum class Voice { thought, said };

// Of one answer.
class ReasoningState {
 public:
  // begun: what the template wrote of the answer. Marks in earlier messages say nothing about it.
  ReasoningState(const std::optional<ReasoningMarks>& marks, std::string_view begun);

  // What the token belongs to; nothing for a mark, which is not text of the answer.
  std::optional<Voice> see(int32_t id);
  Voice voice() const { return voice_; }
  // Removes the title from the begin of a thought that comes in pieces.
  std::string thought(std::string text);

 private:
  const ReasoningMarks* marks_;
  Voice voice_ = Voice::said;
  std::string begin_;  // of a thought, while it may still be the title
  bool in_title_ = false;
};

}  // namespace quern::serve
