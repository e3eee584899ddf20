// How many tokens of prompts a pass may compute beside answers, so that the readers of answers
// never wait long for the next token. This is learned from the passes themselves, because the speed
// of the processor and the lengths of the contexts are not known before.
#pragma once

#include <cstdint>

namespace quern::engine {

class PassBudget {
 public:
  // A pass with answers shall take `target_seconds`; 0: whatever it takes. Never more than `most`
  // tokens.
  PassBudget(double target_seconds, int64_t most);

  // Tokens of prompts for the next pass, if it has answers. A few always, so that prompts come to
  // their end on a machine whose answers alone take longer than the target.
  int64_t tokens() const;
  // A pass with so many tokens of answers and of prompts took so long.
  void took(double seconds, int64_t answers, int64_t prompts);

 private:
  double target_;
  int64_t most_;
  double answers_seconds_ = 0;  // of a pass without prompts
  double token_seconds_ = 0;    // that a prompt's token adds; 0: not known
};

}  // namespace quern::engine
