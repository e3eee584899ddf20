#include "engine/sequence.h"

#include <algorithm>

namespace quern::engine {

std::optional<Finish> Sequence::finish(int64_t max_model_len) const {
  const auto made = answer();
  if (made.empty()) return std::nullopt;
  if (std::ranges::find(request.stop_ids, made.back()) != request.stop_ids.end())
    return Finish::stop;
  if (std::ssize(made) >= request.max_tokens || length() >= max_model_len) return Finish::length;
  return std::nullopt;
}

}  // namespace quern::engine
