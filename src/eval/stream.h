// Runs a model over many windows with one block in memory at a time, which works for a model of any
// size: the states of all windows pass through a block, then the block is dropped.
#pragma once

#include <functional>
#include <memory>
#include <span>

#include "eval/windows.h"
#include "nn/model.h"
#include "nn/weights.h"

namespace quern::eval {

class Stream {
 public:
  // Fails if the architecture is not supported.
  explicit Stream(std::shared_ptr<const nn::Source> source);

  int64_t vocabulary() const { return model_->vocabulary(); }
  int blocks() const { return model_->blocks(); }
  int64_t state_bytes() const;  // for one token between two blocks

  // The input of the head: fp32 [tokens, hidden], all windows concatenated. Fails on a token
  // outside the vocabulary. `block_done` may be empty.
  Tensor states(std::span<const Window> windows, const std::function<void()>& block_done) const;
  // Logits for some of these states: fp32 [.., vocabulary].
  Tensor logits(const Tensor& states) const;
  // The number of states for one call of logits(): about 64 MiB of logits.
  int64_t states_at_once() const;

 private:
  void check_tokens(std::span<const Window> windows) const;

  std::shared_ptr<const nn::Source> source_;
  nn::Weights weights_;
  std::unique_ptr<nn::Model> model_;
  std::unique_ptr<nn::Head> head_;
};

}  // namespace quern::eval
