// Requests -> tokens. One sequence at a time, first come, first served: its prompt goes through the
// model in chunks, then every step makes one token. All weights are loaded once and stay packed.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "engine/sampler.h"
#include "nn/model.h"
#include "nn/pass.h"
#include "nn/weights.h"

namespace quern::engine {

struct Request {
  std::vector<int32_t> tokens;  // the prompt; not empty
  int64_t max_tokens = 256;     // new ones
  Sampling sampling = {};
  std::vector<int32_t> stop_ids = {};  // each ends the answer, and is its last token
};

enum class Finish { stop, length, cancelled };

// What a step did for one request.
struct Update {
  int64_t request = 0;
  std::vector<int32_t> tokens;   // new; none while the prompt is being read
  std::optional<Finish> finish;  // set in a request's last update
};

struct EngineOptions {
  // Tokens of a prompt in one pass: more are no faster and their activations take more memory.
  int64_t prefill_tokens = 512;
  // Ids from here on are never drawn; 0: all that the model has.
  int64_t ids = 0;
};

class Engine {
 public:
  // Loads the whole model. Fails when the architecture is not known or a tensor is missing.
  explicit Engine(std::shared_ptr<const nn::Source> source, const EngineOptions& options = {});
  ~Engine();

  // Returns the number by which updates name the request. Fails on an empty prompt and on ids that
  // the model does not have.
  int64_t submit(Request request);
  // One pass of the model for the request whose turn it is. Every request that was submitted ends
  // in exactly one update with `finish`.
  std::vector<Update> step();
  // The request ends with Finish::cancelled in the next step; nothing happens if it has ended.
  void cancel(int64_t request);
  bool idle() const { return sequences_.empty(); }

  int64_t vocabulary() const { return model_->vocabulary(); }

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
  std::deque<std::unique_ptr<Sequence>> sequences_;  // the first one has its turn
  int64_t submitted_ = 0;
};

}  // namespace quern::engine
