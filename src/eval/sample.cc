#include "eval/sample.h"

#include <algorithm>

#include "base/error.h"
#include "models/models.h"

namespace quern::eval {

std::vector<int32_t> greedy(const std::shared_ptr<const nn::Source>& source,
                            std::span<const int32_t> prompt, int64_t count,
                            std::span<const int32_t> stops) {
  QUERN_CHECK(!prompt.empty());
  at::NoGradGuard no_grad;
  const nn::Weights weights(source);
  const auto model = models::make_model(source->files.config());
  const auto stem = model->stem(weights);
  const auto head = model->head(weights);
  std::vector<std::unique_ptr<nn::Block>> blocks;
  for (int i = 0; i < model->blocks(); ++i) blocks.push_back(model->block(weights, i));

  nn::Caches caches;
  std::vector<int32_t> answer;
  Tensor tokens = at::tensor(std::vector<int64_t>(prompt.begin(), prompt.end()), at::kLong);
  for (int64_t past = 0; std::ssize(answer) < count; past += tokens.size(0)) {
    if (!answer.empty()) tokens = at::tensor({int64_t{answer.back()}}, at::kLong);
    nn::Pass pass = nn::Pass::next(past, tokens.size(0), caches);
    Tensor x = (*stem)(tokens, pass);
    for (const auto& block : blocks) x = (*block)(x, pass);
    const Tensor logits = head->logits(head->norm(x.narrow(0, x.size(0) - 1, 1)));
    answer.push_back(static_cast<int32_t>(logits.argmax().item<int64_t>()));
    if (std::ranges::find(stops, answer.back()) != stops.end()) break;
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
