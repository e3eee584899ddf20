#include "eval/stream.h"

#include <algorithm>

#include "base/error.h"
#include "models/models.h"

namespace quern::eval {
namespace {

// Tokens of the windows in one pass of a block: enough to amortize the load of each expert, and few
// enough to keep the activations small.
constexpr int64_t kBatchTokens = 2048;

struct Batch {
  std::span<const Window> windows;
  int64_t begin = 0, tokens = 0;  // among all tokens

  nn::Pass pass() const {
    std::vector<int64_t> lengths;
    for (const Window& window : windows) lengths.push_back(std::ssize(window.tokens));
    return nn::Pass::whole(lengths);
  }
  Tensor ids() const {
    std::vector<int64_t> all;
    for (const Window& window : windows) {
      all.insert(all.end(), window.tokens.begin(), window.tokens.end());
    }
    return at::tensor(all, at::kLong);
  }
};

std::vector<Batch> batches_of(std::span<const Window> windows) {
  std::vector<Batch> batches;
  int64_t begin = 0;
  for (size_t first = 0; first < windows.size();) {
    size_t end = first;
    int64_t tokens = 0;
    do {
      tokens += std::ssize(windows[end++].tokens);
    } while (end < windows.size() && tokens + std::ssize(windows[end].tokens) <= kBatchTokens);
    batches.push_back({windows.subspan(first, end - first), begin, tokens});
    begin += tokens;
    first = end;
  }
  return batches;
}

}  // namespace

Stream::Stream(std::shared_ptr<const nn::Source> source)
    : source_(std::move(source)),
      weights_(source_),
      model_(models::make_model(source_->files.config())),
      head_(model_->head(weights_)) {}

int64_t Stream::state_bytes() const {
  return (model_->hidden() + model_->shared_width()) * static_cast<int64_t>(sizeof(float));
}

int64_t Stream::states_at_once() const {
  constexpr int64_t kLogits = 16 << 20;
  return std::clamp<int64_t>(kLogits / vocabulary(), 1, 1024);
}

void Stream::check_tokens(std::span<const Window> windows) const {
  for (const Window& window : windows) {
    for (int32_t token : window.tokens) {
      if (token >= 0 && token < vocabulary()) continue;
      fail(
          "{}: token {} is outside the vocabulary of {}; was the text tokenized for another "
          "model?",
          source_->files.folder().string(), token, vocabulary());
    }
  }
}

Tensor Stream::states(std::span<const Window> windows,
                      const std::function<void()>& block_done) const {
  at::NoGradGuard no_grad;
  check_tokens(windows);
  const std::vector<Batch> batches = batches_of(windows);
  Tensor states =
      at::empty({batches.back().begin + batches.back().tokens, model_->hidden()}, at::kFloat);
  std::vector<nn::Shared> shared;  // one for each batch
  auto stem = model_->stem(weights_);
  for (const Batch& batch : batches) {
    nn::Pass pass = batch.pass();
    states.narrow(0, batch.begin, batch.tokens).copy_((*stem)(batch.ids(), pass));
    shared.push_back(std::move(pass.shared));
  }
  for (int i = 0; i < model_->blocks(); ++i) {
    auto block = model_->block(weights_, i);
    for (size_t b = 0; b < batches.size(); ++b) {
      nn::Pass pass = batches[b].pass();
      pass.shared = std::move(shared[b]);
      Tensor rows = states.narrow(0, batches[b].begin, batches[b].tokens);
      rows.copy_((*block)(rows, pass));
      shared[b] = std::move(pass.shared);
    }
    block.reset();
    source_->files.release_all();
    if (block_done) block_done();
  }
  for (const Batch& batch : batches) {
    Tensor rows = states.narrow(0, batch.begin, batch.tokens);
    rows.copy_(head_->norm(rows));
  }
  return states;
}

Tensor Stream::logits(const Tensor& states) const {
  at::NoGradGuard no_grad;
  return head_->logits(states);
}

}  // namespace quern::eval
