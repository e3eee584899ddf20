// A model is a stem, blocks that can be built and dropped one at a time, a head, and perhaps a
// draft layer. The same classes calibrate and generate: the form of a weight hides in Linear and
// Experts, the caches in the Pass.
#pragma once

#include <memory>
#include <string>

#include "nn/pass.h"
#include "nn/weights.h"

namespace quern::nn {

class Stem {
 public:
  virtual ~Stem() = default;
  // tokens int64 [n] -> fp32 [n, hidden]
  virtual Tensor operator()(const Tensor& tokens, Pass& pass) const = 0;
};

// [tokens, hidden] -> [tokens, hidden]
class Block {
 public:
  virtual ~Block() = default;
  virtual Tensor operator()(const Tensor& x, Pass& pass) const = 0;
};

class Head {
 public:
  virtual ~Head() = default;
  // The final norm; a draft layer reads its result too.
  virtual Tensor norm(const Tensor& hidden) const = 0;
  virtual Tensor logits(const Tensor& normed) const = 0;  // [tokens, vocabulary]
};

// Guesses one token further: from the normed state of a position and the embedding of the token
// after it, a normed state that Head::logits turns into the guess.
class Draft {
 public:
  virtual ~Draft() = default;
  virtual Tensor operator()(const Tensor& embedded, const Tensor& normed, Pass& pass) const = 0;
};

class Model {
 public:
  virtual ~Model() = default;
  virtual int blocks() const = 0;
  virtual int64_t vocabulary() const = 0;
  virtual int64_t hidden() const = 0;
  // Numbers that a token keeps in Pass::shared between two blocks, at most.
  virtual int64_t shared_width() const { return 0; }
  // Where the blocks' list lies in this checkpoint, "model.language_model.layers": what AutoRound
  // calls block_name_to_quantize.
  virtual std::string blocks_path(const Weights& root) const = 0;
  virtual std::unique_ptr<Stem> stem(const Weights& root) const = 0;
  virtual std::unique_ptr<Block> block(const Weights& root, int index) const = 0;
  virtual std::unique_ptr<Head> head(const Weights& root) const = 0;
  // Null if the checkpoint has none.
  virtual std::unique_ptr<Draft> draft(const Weights& root) const = 0;
};

}  // namespace quern::nn
