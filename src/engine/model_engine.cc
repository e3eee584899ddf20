#include "engine/model_engine.h"

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "engine/sampler.h"
#include "models/models.h"

namespace quern::engine {

struct ModelEngine::Sequence {
  Sequence(int64_t id, Request accepted, int64_t ids)
      : id(id),
        request(std::move(accepted)),
        tokens(request.tokens),
        sampler(request, ids, LogprobsMode::raw_logprobs, static_cast<uint64_t>(id)) {}

  int64_t generated() const { return static_cast<int64_t>(tokens.size() - request.tokens.size()); }
  int64_t waiting() const { return static_cast<int64_t>(tokens.size()) - cached; }

  std::optional<Finish> finish() const {
    const auto& stops = request.stop_ids;
    if (generated() > 0 && std::find(stops.begin(), stops.end(), tokens.back()) != stops.end())
      return Finish::stop;
    if (generated() >= request.max_tokens) return Finish::length;
    return std::nullopt;
  }

  int64_t id;
  Request request;
  std::vector<int32_t> tokens;  // the prompt's and the new ones
  int64_t cached = 0;           // of them, how many the caches have seen
  nn::Caches caches;
  Sampler sampler;
  bool begun = false, cancelled = false;
};

ModelEngine::ModelEngine(std::shared_ptr<const nn::Source> source, const EngineOptions& options)
    : source_(std::move(source)),
      options_(options),
      model_(models::make_model(source_->files.config())) {
  QUERN_CHECK(options_.max_num_batched_tokens > 0);
  at::NoGradGuard no_grad;
  const nn::Weights root(source_);
  stem_ = model_->stem(root);
  for (int i = 0; i < model_->blocks(); ++i) blocks_.push_back(model_->block(root, i));
  head_ = model_->head(root);
  const int64_t vocabulary = model_->vocabulary();
  if (options_.ids <= 0 || options_.ids > vocabulary) options_.ids = vocabulary;
  limits_ = {.vocabulary = vocabulary,
             .max_model_len = std::numeric_limits<int64_t>::max(),
             .max_num_seqs = 1,
             .max_num_batched_tokens = options_.max_num_batched_tokens};
}

ModelEngine::~ModelEngine() = default;

int64_t ModelEngine::submit(Request request) {
  check(request, limits_);
  sequences_.push_back(std::make_unique<Sequence>(submitted_, std::move(request), options_.ids));
  return submitted_++;
}

Tensor ModelEngine::run(Sequence& sequence, int64_t count) {
  const auto begin = sequence.tokens.begin() + sequence.cached;
  const std::vector<int64_t> ids(begin, begin + count);
  nn::Pass pass = nn::Pass::next(sequence.cached, count, sequence.caches);
  Tensor hidden = (*stem_)(at::tensor(ids, at::kLong), pass);
  for (const auto& block : blocks_) hidden = (*block)(hidden, pass);
  sequence.cached += count;
  if (sequence.waiting() > 0) return {};
  return head_->logits(head_->norm(hidden.narrow(0, count - 1, 1)));
}

std::vector<Update> ModelEngine::step() {
  // Not InferenceMode: it holds for one thread, and the threads of parallel_for could not write to
  // tensors that were made in it.
  at::NoGradGuard no_grad;
  std::vector<Update> updates;
  std::erase_if(sequences_, [&](const auto& sequence) {
    if (sequence->cancelled)
      updates.push_back({.request = sequence->id, .finish = Finish::cancelled});
    return sequence->cancelled;
  });
  if (sequences_.empty()) return updates;

  Sequence& sequence = *sequences_.front();
  const Tensor logits =
      run(sequence, std::min(sequence.waiting(), options_.max_num_batched_tokens));
  Update update{.request = sequence.id};
  if (sequence.generated() == 0 && !sequence.begun) update.cached_tokens = 0;
  sequence.begun = true;
  if (logits.defined()) {
    const auto answer = std::span(sequence.tokens).subspan(sequence.request.tokens.size());
    const int32_t token =
        sequence.sampler
            .next({logits.const_data_ptr<float>(), static_cast<size_t>(logits.numel())}, answer)
            .token;
    sequence.tokens.push_back(token);
    update.tokens = {token};
    update.finish = sequence.finish();
  }
  updates.push_back(update);
  if (update.finish) sequences_.pop_front();
  return updates;
}

void ModelEngine::cancel(int64_t request) {
  for (auto& sequence : sequences_)
    if (sequence->id == request) sequence->cancelled = true;
}

EngineState ModelEngine::state() const {
  EngineState state = state_;
  state.running = std::min<int64_t>(1, std::ssize(sequences_));
  state.waiting = std::ssize(sequences_) - state.running;
  return state;
}

}  // namespace quern::engine
