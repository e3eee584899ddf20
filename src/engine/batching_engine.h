// Turns the requests of many clients into batches for a Runner: which request is computed when, on
// which blocks of the caches, and which tokens are drawn from the logits. It has no tensors and no
// model: a runner may be anything that computes batches.
#pragma once

#include <exception>
#include <memory>
#include <optional>
#include <unordered_map>

#include "engine/engine.h"
#include "engine/options.h"
#include "engine/pass_budget.h"
#include "engine/runner.h"
#include "engine/sampler.h"
#include "engine/scheduler.h"

namespace quern::engine {

class BatchingEngine : public Engine {
 public:
  // Fails when the options do not fit the model, or the caches find no room.
  BatchingEngine(std::unique_ptr<Runner> runner, const EngineOptions& options);
  ~BatchingEngine() override;

  int64_t submit(Request request) override;
  std::vector<Update> step() override;
  void cancel(int64_t request) override;
  bool idle() const override { return active_.empty(); }
  const Limits& limits() const override { return limits_; }
  EngineState state() const override;

  const MemoryPlan& plan() const { return plan_; }
  const CachePool& pool() const { return *pool_; }

 private:
  // What belongs to a request beside its sequence; by its number, never by its place in a pass.
  struct Active {
    Sampler sampler;
    std::vector<TokenReport> prompt_reports = {};
    bool pictures = false, unseen = false;  // unseen: the runner has not looked at them
    bool cancelled = false;
    // Of the step that runs:
    std::optional<Sampler::Drawn> drawn = std::nullopt;
    std::exception_ptr error = nullptr;  // what ends the request
    int64_t update = -1;                 // its place among the updates
  };
  struct Step;

  void make_pool();
  void end(int64_t request);
  void end_with(const std::exception& error, int64_t request, Step& step);
  void end_cancelled(Step& step);
  Update& update_of(int64_t request, Active& active, Step& step);
  // A request whose pictures fail is ended.
  void see_pictures(Step& step);
  void run(Step& step);
  void fill_batch(Step& step);
  void want_rows(const Slice& slice, Active& active, Step& step);
  void read(const Logits& logits, int64_t first, Step& step);
  void commit(Step& step);
  // Whether the request has failed in this step, and is ended by it.
  bool end_failed(Sequence& sequence, Active& active, Step& step);
  void deliver(Sequence& sequence, Active& active, Step& step);

  std::unique_ptr<Runner> runner_;
  EngineOptions options_;
  MemoryNeeds needs_;
  MemoryPlan plan_;
  std::unique_ptr<CachePool> pool_;
  std::unique_ptr<Scheduler> scheduler_;
  PassBudget budget_;
  std::unordered_map<int64_t, Active> active_;
  std::vector<int64_t> cancelled_;  // since the last step
  Limits limits_;
  EngineState state_;
  uint64_t seed_ = 0;
  int64_t submitted_ = 0;
};

}  // namespace quern::engine
