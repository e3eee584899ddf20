// A model is a stem, blocks that can be built and dropped one at a time, a head, and perhaps a
// draft layer. The same classes calibrate and generate: the form of a weight hides in Linear and
// Experts, the caches in the Pass.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "nn/pass.h"
#include "nn/weights.h"
#include "prompt/media.h"

namespace quern::nn {

class Stem {
 public:
  virtual ~Stem() = default;
  // tokens int64 [n] -> fp32 [n, hidden]
  virtual Tensor operator()(const Tensor& tokens, Pass& pass) const = 0;
};

// [tokens, hidden] -> [tokens, hidden], in two halves of the same shape.
class Block {
 public:
  virtual ~Block() = default;
  // What attention or its like adds to x: the half in which tokens see those before them.
  virtual Tensor mixed(const Tensor& x, Pass& pass) const = 0;
  // The other half, from the result of the first.
  virtual Tensor fed_forward(const Tensor& x, Pass& pass) const = 0;
  Tensor operator()(const Tensor& x, Pass& pass) const { return fed_forward(mixed(x, pass), pass); }
};

class Head {
 public:
  virtual ~Head() = default;
  // The final norm; a draft layer reads its result too.
  virtual Tensor norm(const Tensor& hidden) const = 0;
  virtual Tensor logits(const Tensor& normed) const = 0;  // [tokens, vocabulary]
};

// Two points in which implementations of a draft layer differ.
struct DraftConvention {
  bool zero_first_embedding;  // the embedding at position 0 counts as zero
  bool feed_back_normed;      // the state for a further guess has gone through the draft's norm
};
inline constexpr DraftConvention kTransformersDraft = {.zero_first_embedding = false,
                                                       .feed_back_normed = true};
inline constexpr DraftConvention kVllmDraft = {.zero_first_embedding = true,
                                               .feed_back_normed = false};

// Guesses one token further. Row t of a pass stands for position t of the sequence and knows its
// state and the token after it; the guess is the token after that one. The keys and values of the
// draft lie in the pass's caches together with those of the blocks.
class Draft {
 public:
  virtual ~Draft() = default;
  // tokens int64 [n] -> fp32 [n, hidden]: the model's own embedding, if the draft has none.
  virtual Tensor embed(const Tensor& tokens, const Stem& stem, Pass& pass) const {
    return stem(tokens, pass);
  }
  // embedded: of the next token. state [n, hidden]: Head::norm's result, or, to guess further, what
  // this call returned for the position before. Returns the states of the guesses.
  virtual Tensor operator()(const Tensor& embedded, const Tensor& state, Pass& pass) const = 0;
  // [n, vocabulary] of the states that the call returned: the model's own head, if the draft has
  // none.
  virtual Tensor logits(const Tensor& state, const Head& head) const { return head.logits(state); }
  // Drafts that all implementations compute alike have nothing to follow.
  virtual void follow(const DraftConvention&) {}
};

// The tower that turns pictures into features.
class Vision {
 public:
  virtual ~Vision() = default;
  // fp32 [soft tokens, hidden], row by row: what takes the place of their embeddings. Fails on
  // patches of another shape than the tower's.
  Tensor operator()(const prompt::Patches& patches) const { return project(encode(patches)); }
  // The tower's last states, in its own width and order.
  virtual Tensor encode(const prompt::Patches& patches) const = 0;
  virtual Tensor project(const Tensor& encoded) const = 0;
};

class Model {
 public:
  virtual ~Model() = default;
  virtual int blocks() const = 0;
  virtual int64_t vocabulary() const = 0;
  virtual int64_t hidden() const = 0;
  // How prompts hold pictures; unset for a model that sees none.
  virtual std::optional<prompt::ImageTokens> image_tokens() const { return std::nullopt; }
  // Its tensors are read only when this is called. Null if the checkpoint has none.
  virtual std::unique_ptr<Vision> vision(const Weights&) const { return nullptr; }
  // The token that every text begins with, for models that were trained with it only.
  virtual std::optional<int32_t> bos() const { return std::nullopt; }
  // Routed experts that a token reaches in a block, at most; 0: blocks have none.
  virtual int64_t experts_per_token() const { return 0; }
  // The most numbers that a token keeps in Pass::shared between two blocks.
  virtual int64_t shared_width() const { return 0; }
  // Where the blocks' list lies in this checkpoint, "model.language_model.layers": what AutoRound
  // calls block_name_to_quantize.
  virtual std::string blocks_path(const Weights& root) const = 0;
  virtual std::unique_ptr<Stem> stem(const Weights& root) const = 0;
  virtual std::unique_ptr<Block> block(const Weights& root, int index) const = 0;
  virtual std::unique_ptr<Head> head(const Weights& root) const = 0;
  // Null if the checkpoint has none.
  virtual std::unique_ptr<Draft> draft(const Weights& root) const = 0;
  // Tensors of the checkpoint that no pass reads.
  virtual std::vector<std::string> unused(const Weights&) const { return {}; }
  // The place of the draft, "mtp": the prefix of its tensors' names and of no others. "" for none.
  virtual std::string draft_path(const Weights&) const { return ""; }
};

}  // namespace quern::nn
