// The engine on a model: all weights are loaded once and stay packed.
#pragma once

#include <deque>
#include <memory>

#include "engine/engine.h"
#include "nn/model.h"
#include "nn/pass.h"
#include "nn/weights.h"

namespace quern::engine {

struct EngineOptions {
  // Tokens of a pass: more are no faster and their activations take more memory.
  int64_t max_num_batched_tokens = 512;
  // Ids from here on are never drawn; 0: all that the model has.
  int64_t ids = 0;
};

class ModelEngine : public Engine {
 public:
  // Loads the whole model. Fails when the architecture is not known or a tensor is missing.
  explicit ModelEngine(std::shared_ptr<const nn::Source> source, const EngineOptions& options = {});
  ~ModelEngine() override;

  int64_t submit(Request request) override;
  std::vector<Update> step() override;
  void cancel(int64_t request) override;
  bool idle() const override { return sequences_.empty(); }
  const Limits& limits() const override { return limits_; }
  EngineState state() const override;

 private:
  struct Sequence;

  // The logits after the last of the next `count` tokens that the caches have not seen.
  Tensor run(Sequence& sequence, int64_t count);

  std::shared_ptr<const nn::Source> source_;
  EngineOptions options_;
  std::unique_ptr<nn::Model> model_;
  std::unique_ptr<nn::Stem> stem_;
  std::vector<std::unique_ptr<nn::Block>> blocks_;
  std::unique_ptr<nn::Head> head_;
  Limits limits_;
  EngineState state_;
  std::deque<std::unique_ptr<Sequence>> sequences_;  // the first one has its turn
  int64_t submitted_ = 0;
};

}  // namespace quern::engine
