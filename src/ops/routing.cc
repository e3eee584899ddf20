#include "ops/routing.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "ops/norm.h"

namespace quern::ops {

Routing softmax_top_k(const Tensor& logits, int64_t k) {
  auto [largest, experts] = logits.softmax(-1).topk(k, -1);
  return {experts, largest / largest.sum(-1, /*keepdim=*/true)};
}

namespace {

// The scores, with -inf for all experts outside the best groups.
Tensor within_best_groups(const Tensor& scores, const SigmoidTopK& rule) {
  Tensor grouped = scores.unflatten(-1, {rule.groups, -1});
  Tensor worth = std::get<0>(grouped.topk(2, -1)).sum(-1);
  Tensor best = std::get<1>(worth.topk(rule.kept_groups, -1));
  Tensor excluded = at::ones_like(worth, at::kBool).scatter(-1, best, false);
  return grouped.masked_fill(excluded.unsqueeze(-1), -INFINITY).flatten(1);
}

}  // namespace

Routing sigmoid_top_k(const Tensor& logits, const Tensor& bias, const SigmoidTopK& rule) {
  QUERN_CHECK(logits.dim() == 2 && bias.numel() == logits.size(1));
  Tensor scores = ops::sigmoid(logits);
  Tensor wanted = scores.detach() + bias;
  if (rule.groups > 1) wanted = within_best_groups(wanted, rule);
  Tensor experts = std::get<1>(wanted.topk(rule.k, -1));
  Tensor weights = scores.gather(-1, experts);
  // 1e-20 as in the reference implementations: scores of very negative logits may all be zero.
  if (rule.normalize) weights = weights / (weights.sum(-1, /*keepdim=*/true) + 1e-20);
  return {experts, weights * rule.factor};
}

std::vector<int64_t> ExpertLists::by_size() const {
  std::vector<int64_t> order;
  for (int64_t e = 0; e + 1 < static_cast<int64_t>(begin.size()); ++e) {
    if (pairs(e) > 0) order.push_back(e);
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return pairs(a) > pairs(b); });
  return order;
}

ExpertLists sort_by_expert(const Tensor& experts, int64_t count) {
  QUERN_CHECK(experts.dim() == 2 && experts.scalar_type() == at::kLong);
  Tensor dense = experts.contiguous();
  const int64_t* chosen = dense.const_data_ptr<int64_t>();
  const int64_t tokens = experts.size(0), k = experts.size(1);
  ExpertLists lists;
  lists.begin.assign(count + 1, 0);
  for (int64_t i = 0; i < tokens * k; ++i) {
    QUERN_CHECK(chosen[i] >= 0 && chosen[i] < count);
    ++lists.begin[chosen[i] + 1];
  }
  for (int64_t e = 0; e < count; ++e) lists.begin[e + 1] += lists.begin[e];
  std::vector<int64_t> next(lists.begin.begin(), lists.begin.end() - 1);
  lists.token.resize(tokens * k);
  lists.slot.resize(tokens * k);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t s = 0; s < k; ++s) {
      const int64_t place = next[chosen[t * k + s]]++;
      lists.token[place] = static_cast<int32_t>(t);
      lists.slot[place] = static_cast<int32_t>(s);
    }
  }
  return lists;
}

}  // namespace quern::ops
