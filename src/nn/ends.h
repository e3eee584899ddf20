// The stem and head of most models: a stem that looks up token embeddings and inserts the features
// of pictures, and a head with a norm and a linear.
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

// `lm_head`, next to the text model, or the text model's embedding if the two are tied. A head in
// the checkpoint is used even then (transformers, modeling_utils.py: tie_weights).
inline Linear lm_head(const Weights& root, const Weights& text, bool tied, int64_t vocabulary,
                      int64_t hidden, const std::string& embedding = "embed_tokens") {
  return tied && !root.has_linear("lm_head")
             ? root.tied_head("lm_head", text.path(embedding), vocabulary, hidden)
             : root.linear("lm_head", vocabulary, hidden, Role::lm_head);
}

}  // namespace quern::nn
