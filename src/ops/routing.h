// The choice of experts for each token, and the weights of their outputs.
#pragma once

#include <vector>

#include "tensor/tensor.h"

namespace quern::ops {

struct Routing {
  Tensor experts;  // int64 [tokens, k], distinct within a row
  Tensor weights;  // fp32 [tokens, k]
};

// Softmax over all experts; the k largest weights, divided by their sum. logits fp32 [tokens,
// experts]; gradients flow to them.
Routing softmax_top_k(const Tensor& logits, int64_t k);

// The rule for experts with sigmoid scores (DeepSeek-V3, 2024).
struct SigmoidTopK {
  int64_t k;
  int64_t groups = 1;       // of equal size; a group's score is the sum of its two largest scores
  int64_t kept_groups = 1;  // experts of other groups are not chosen
  bool normalize = true;    // weights are divided by their sum
  double factor = 1;        // multiplies all weights
};

// The k experts with the largest sigmoid(logit) + bias; their weights come from the sigmoid without
// the bias. logits fp32 [tokens, experts], bias fp32 [experts]; gradients flow to the logits.
Routing sigmoid_top_k(const Tensor& logits, const Tensor& bias, const SigmoidTopK& rule);

// The pairs (token, slot) of a routing, sorted by expert, then by token.
struct ExpertLists {
  std::vector<int64_t> begin;  // expert e has pairs [begin[e], begin[e + 1])
  std::vector<int32_t> token;
  std::vector<int32_t> slot;  // column of Routing::experts

  int64_t pairs(int64_t expert) const { return begin[expert + 1] - begin[expert]; }
  // Experts with pairs, in descending order of their number of pairs: the order in which threads
  // should take them.
  std::vector<int64_t> by_size() const;
};

ExpertLists sort_by_expert(const Tensor& experts, int64_t count);

}  // namespace quern::ops
