// The engine on a model: all weights are loaded once and stay packed; sequences share the passes of
// the model and the memory of its caches.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>

#include "engine/engine.h"
#include "engine/memory_plan.h"
#include "engine/probe.h"
#include "engine/sampler.h"
#include "engine/scheduler.h"
#include "engine/sequence_images.h"
#include "nn/model.h"
#include "nn/pass.h"
#include "nn/weights.h"

namespace quern::engine {

struct EngineOptions {
  // Tokens of prompt and answer; 0: as many as the model and the memory allow.
  int64_t max_model_len = 0;
  int64_t max_num_seqs = 16;
  // Tokens of a pass: more are no faster and their activations take more memory.
  int64_t max_num_batched_tokens = 512;
  int64_t long_prefill_tokens = 0;  // of one prompt in a pass; 0: all that there is room for
  Policy policy = Policy::fcfs;
  bool prefix_caching = true;
  // Unset: what the model's weights are stored in.
  std::optional<nn::KvType> kv_type = std::nullopt;
  // For all caches; 0: what `memory_share` leaves.
  int64_t kv_bytes = 0;
  // Of the machine's memory, for weights, activations and caches; 0: caches get a quarter of what
  // is available, and 16 GiB at most.
  double memory_share = 0;
  // Blocks for layers that see all tokens, whatever kv_bytes; 0: as many as find room.
  int64_t kv_blocks = 0;
  int64_t block_tokens = 16;  // of a block; a multiple of 16
  LogprobsMode logprobs_mode = LogprobsMode::raw_logprobs;
  // Ids from here on are never drawn; 0: all that the model has.
  int64_t ids = 0;
  // Engines of one seed give equal answers to equal requests in the same order, also to those that
  // have no seed; unset: drawn anew.
  std::optional<uint64_t> seed = std::nullopt;
};

class ModelEngine : public Engine {
 public:
  // Loads the whole model. Fails when the architecture is not known, a tensor is missing, or the
  // caches find no room.
  explicit ModelEngine(std::shared_ptr<const nn::Source> source, const EngineOptions& options = {});
  ~ModelEngine() override;

  int64_t submit(Request request) override;
  std::vector<Update> step() override;
  void cancel(int64_t request) override;
  bool idle() const override { return active_.empty(); }
  const Limits& limits() const override { return limits_; }
  EngineState state() const override;

  const MemoryPlan& plan() const { return plan_; }
  nn::KvType kv_type() const { return kv_type_; }
  const CachePool& pool() const { return *pool_; }

 protected:
  // The model's arithmetic, which tests break and benchmarks time: from ids int64 [tokens] to the
  // states before the head's norm, and from some rows of these to logits.
  virtual Tensor forward(const Tensor& ids, nn::Pass& pass) const;
  virtual Tensor logits_of(const Tensor& hidden, const std::vector<int64_t>& rows) const;

 private:
  // What belongs to a request beside its sequence; by its number, never by its place in a pass.
  struct Active {
    Sampler sampler;
    SequenceImages images;
    std::vector<TokenReport> prompt_reports;
    bool cancelled = false;
    std::optional<std::string> error = std::nullopt;  // why this step ends it
    bool corrupted = false;                           // by logits that are not numbers
  };
  struct Drawing;

  void check_options() const;
  MemoryNeeds needs(const nn::Weights& taken, const Probe& probe) const;
  void make_caches(const nn::CacheLayout& layout);
  void read_scales();
  // Fails for a model that sees no pictures.
  const nn::Vision& vision();
  std::vector<Update> end_cancelled();
  // Runs the tower for pictures that it has not seen; a request whose pictures fail is ended.
  void see_pictures(std::vector<Slice>& slices, std::vector<Update>& updates);
  void run(const std::vector<Slice>& slices, std::vector<Update>& updates);
  nn::Pass pass_of(const std::vector<Slice>& slices);
  // Work for one request, whose failure ends that one alone.
  void guarded(Active& active, const std::function<void()>& work);
  void report_prompts(const std::vector<Slice>& slices, const Tensor& hidden);
  void report_prompt(const Slice& slice, int64_t first_row, const Tensor& hidden, Active& active);
  std::vector<Drawing> draw(const std::vector<Slice>& slices, const Tensor& hidden);
  void deliver(Drawing& drawing, std::vector<Update>& updates);
  // Ends the request if it has failed in this step.
  void end_failed(Sequence& sequence, std::vector<Update>& updates);
  void end(int64_t request);
  void end_with(const std::exception& error, int64_t request, std::vector<Update>& updates);

  std::shared_ptr<const nn::Source> source_;
  EngineOptions options_;
  std::unique_ptr<nn::Model> model_;
  std::unique_ptr<nn::Stem> stem_;
  std::vector<std::unique_ptr<nn::Block>> blocks_;
  std::unique_ptr<nn::Head> head_;
  std::unique_ptr<nn::Vision> vision_;  // loaded for the first picture
  nn::KvType kv_type_ = nn::KvType::bf16;
  MemoryPlan plan_;
  std::unique_ptr<nn::Caches> caches_;
  std::unique_ptr<CachePool> pool_;
  std::unique_ptr<Scheduler> scheduler_;
  std::map<int64_t, Active> active_;
  Limits limits_;
  EngineState state_;
  uint64_t seed_ = 0;
  int64_t submitted_ = 0;
};

}  // namespace quern::engine
