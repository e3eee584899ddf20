// The two ends that most models have: a stem that looks tokens up, with features where the pass has
// pictures, and a head of a norm and a linear.
#pragma once

#include <utility>

#include "nn/model.h"
#include "nn/weights.h"

namespace quern::nn {

class TokenStem : public Stem {
 public:
  explicit TokenStem(Embedding embed_tokens) : embed_tokens_(std::move(embed_tokens)) {}

  Tensor operator()(const Tensor& tokens, Pass& pass) const override {
    return pass.media.in_place_of(embed_tokens_(tokens));
  }

 private:
  Embedding embed_tokens_;
};

class NormHead : public Head {
 public:
  NormHead(Norm norm, Linear lm_head) : norm_(std::move(norm)), lm_head_(std::move(lm_head)) {}

  Tensor norm(const Tensor& hidden) const override { return norm_(hidden); }
  Tensor logits(const Tensor& normed) const override { return lm_head_(normed); }

 private:
  Norm norm_;
  Linear lm_head_;
};

// `lm_head`, which stands next to the text model, or the text model's embedding where the two are
// tied. A head that the checkpoint holds is used even then (transformers, modeling_utils.py:
// tie_weights).
inline Linear lm_head(const Weights& root, const Weights& text, bool tied, int64_t vocabulary,
                      int64_t hidden, const std::string& embedding = "embed_tokens") {
  return tied && !root.has_linear("lm_head")
             ? root.tied_head("lm_head", text.path(embedding), vocabulary, hidden)
             : root.linear("lm_head", vocabulary, hidden, Role::lm_head);
}

}  // namespace quern::nn
