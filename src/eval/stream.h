// A model run over many windows with one block in memory at a time, so that a model of any size
// can be scored: the states of all windows pass through a block, then the block is dropped.
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
  // Fails when the architecture is not known.
  explicit Stream(std::shared_ptr<const nn::Source> source);

  int64_t vocabulary() const { return model_->vocabulary(); }
  int blocks() const { return model_->blocks(); }
  int64_t state_bytes() const;  // of one token between two blocks

  // What the head reads: fp32 [tokens, hidden], the windows one after another. Fails on a token
  // that is not in the vocabulary. `block_done` may be empty.
  Tensor states(std::span<const Window> windows, const std::function<void()>& block_done) const;
  // Some of these states -> fp32 [.., vocabulary].
  Tensor logits(const Tensor& states) const;
  // Of how many states logits() should be asked at a time: about 64 MiB of logits.
  int64_t states_at_once() const;

 private:
  void check_tokens(std::span<const Window> windows) const;

  std::shared_ptr<const nn::Source> source_;
  nn::Weights weights_;
  std::unique_ptr<nn::Model> model_;
  std::unique_ptr<nn::Head> head_;
};

}  // namespace quern::eval
