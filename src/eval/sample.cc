#include "eval/sample.h"

#include <algorithm>

#include "runner/model_engine.h"

namespace quern::eval {

std::vector<int32_t> greedy(const std::shared_ptr<const nn::Source>& source,
                            std::span<const int32_t> prompt, int64_t count,
                            std::span<const int32_t> stops) {
  runner::ModelEngine engine(source);
  engine.submit({.tokens = {prompt.begin(), prompt.end()},
                 .max_tokens = count,
                 .sampling = {.temperature = 0},
                 .stop_ids = {stops.begin(), stops.end()}});
  std::vector<int32_t> answer;
  while (!engine.idle()) {
    for (const engine::Update& update : engine.step())
      answer.insert(answer.end(), update.tokens.begin(), update.tokens.end());
  }
  return answer;
}

bool is_degenerate(std::span<const int32_t> tokens) {
  constexpr int64_t kFewest = 16, kLongestLoop = 6;
  if (std::ssize(tokens) < kFewest) return false;
  const auto tail = tokens.subspan(tokens.size() / 4);
  for (int64_t period = 1; period <= std::min(kLongestLoop, std::ssize(tail) / 2); ++period) {
    if (std::ranges::equal(tail.subspan(period), tail.first(tail.size() - period))) return true;
  }
  return false;
}

}  // namespace quern::eval
