// A model is a stem, blocks that can be built and dropped one at a time, a head, and optionally a
// draft layer. Calibration and generation use the same classes: Linear and Experts hide the form of
// a weight, the Pass holds the caches.
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
  // The first half: x plus the output of attention or another token mixer. Tokens see earlier
  // tokens here.
  virtual Tensor mixed(const Tensor& x, Pass& pass) const = 0;
  // The second half, applied to the result of the first.
  virtual Tensor fed_forward(const Tensor& x, Pass& pass) const = 0;
  Tensor operator()(const Tensor& x, Pass& pass) const { return fed_forward(mixed(x, pass), pass); }
};

class Head {
 public:
  virtual ~Head() = default;
  // The final norm; a draft layer also reads its result.
  virtual Tensor norm(const Tensor& hidden) const = 0;
  virtual Tensor logits(const Tensor& normed) const = 0;  // [tokens, vocabulary]
};

// Two conventions that differ between implementations of a draft layer.
struct DraftConvention {
  bool zero_first_embedding;  // the embedding at position 0 is zero
  bool feed_back_normed;      // the state for the next guess has passed the draft's norm
};
inline constexpr DraftConvention kTransformersDraft = {.zero_first_embedding = false,
                                                       .feed_back_normed = true};
inline constexpr DraftConvention kVllmDraft = {.zero_first_embedding = true,
                                               .feed_back_normed = false};

// Guesses one token further. Row t of a pass has the state at position t and the token at t + 1;
// the guess is the token at t + 2. The pass's caches hold the draft's keys and values next to those
// of the blocks.
class Draft {
 public:
  virtual ~Draft() = default;
  // tokens int64 [n] -> fp32 [n, hidden]: by the model's embedding, if the draft has none.
  virtual Tensor embed(const Tensor& tokens, const Stem& stem, Pass& pass) const {
    return stem(tokens, pass);
  }
  // embedded: embeddings of the next tokens. state [n, hidden]: the result of Head::norm, or, for a
  // further guess, the result of this call for the previous position. Returns the states of the
  // guesses.
  virtual Tensor operator()(const Tensor& embedded, const Tensor& state, Pass& pass) const = 0;
  // [n, vocabulary] for the states that the call returned; by the model's head, if the draft has
  // none.
  virtual Tensor logits(const Tensor& state, const Head& head) const { return head.logits(state); }
  // Sets the convention; ignored by drafts that all implementations compute alike.
  virtual void follow(const DraftConvention&) {}
};

// The tower that turns pictures into features.
class Vision {
 public:
  virtual ~Vision() = default;
  // The embeddings of the soft tokens, fp32 [soft tokens, hidden], row by row. Fails on patches
  // whose shape does not fit the tower.
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
  // How prompts encode pictures; none for a text-only model.
  virtual std::optional<prompt::ImageTokens> image_tokens() const { return std::nullopt; }
  // Reads the tower's tensors. Null if the checkpoint has none.
  virtual std::unique_ptr<Vision> vision(const Weights&) const { return nullptr; }
  // The first token of every text, for models trained only on texts that begin with it.
  virtual std::optional<int32_t> bos() const { return std::nullopt; }
  // The most routed experts of a token in one block; 0: blocks have none.
  virtual int64_t experts_per_token() const { return 0; }
  // The most numbers per token in Pass::shared between two blocks.
  virtual int64_t shared_width() const { return 0; }
  // The path of the list of blocks in this checkpoint, "model.language_model.layers"; AutoRound's
  // block_name_to_quantize.
  virtual std::string blocks_path(const Weights& root) const = 0;
  virtual std::unique_ptr<Stem> stem(const Weights& root) const = 0;
  virtual std::unique_ptr<Block> block(const Weights& root, int index) const = 0;
  virtual std::unique_ptr<Head> head(const Weights& root) const = 0;
  // Null if the checkpoint has none.
  virtual std::unique_ptr<Draft> draft(const Weights& root) const = 0;
  // Tensors of the checkpoint that the model never reads.
  virtual std::vector<std::string> unused(const Weights&) const { return {}; }
  // The path of the draft, "mtp": a prefix of its tensors' names and of no other names. "" for
  // none.
  virtual std::string draft_path(const Weights&) const { return ""; }
};

}  // namespace quern::nn
