#include "engine/batching_engine.h"

#include <algorithm>
#include <chrono>
#include <random>

#include "base/error.h"
#include "base/threads.h"

namespace quern::engine {
namespace {

uint64_t random_word() {
  std::random_device source;
  return uint64_t{source()} << 32 | source();
}

// Runs the work for one request, whose failure ends that one alone.
void guarded(std::exception_ptr& error, const std::function<void()>& work) {
  try {
    work();
  } catch (const std::exception&) {
    error = std::current_exception();
  }
}

}  // namespace

struct BatchingEngine::Step {
  // What a row of logits is for: a report of the prompt's token `reported`, or a draw if it is -1.
  struct Row {
    Sequence* sequence;
    Active* active;
    int64_t reported;
    std::exception_ptr error = nullptr;
  };

  std::vector<Update> updates = {};
  std::vector<Slice> slices = {};
  std::vector<Active*> active = {};  // by slice
  Batch batch = {};
  std::vector<Row> rows = {};  // by row of the batch
};

// ---- start

BatchingEngine::BatchingEngine(std::unique_ptr<Runner> runner, const EngineOptions& options)
    : runner_(std::move(runner)),
      options_(options),
      needs_(runner_->needs()),
      budget_(options.target_itl_ms / 1000, options.max_num_batched_tokens),
      seed_(options.seed.value_or(random_word())) {
  options_.check(needs_.longest);
  const int64_t vocabulary = runner_->vocabulary();
  if (options_.ids <= 0 || options_.ids > vocabulary) options_.ids = vocabulary;
  // Each thread draws from a copy of its row, and from what the rules leave of it.
  needs_.activations +=
      threads() * vocabulary * static_cast<int64_t>(sizeof(float) + sizeof(Choice));
  plan_ = plan_memory(needs_,
                      {.cache_bytes = options_.kv_bytes,
                       .utilization = options_.memory_share,
                       .max_model_len = options_.max_model_len,
                       .max_num_seqs = options_.max_num_seqs,
                       .max_num_batched_tokens = options_.max_num_batched_tokens,
                       .blocks = options_.kv_blocks,
                       .prefix_caching = options_.prefix_caching},
                      machine_memory());
  runner_->make_caches(plan_);
  make_pool();
  limits_ = {.vocabulary = vocabulary,
             .max_model_len = plan_.max_model_len,
             .max_num_seqs = options_.max_num_seqs,
             .max_num_batched_tokens = options_.max_num_batched_tokens,
             .block_tokens = options_.block_tokens,
             .kv_tokens = plan_.kv_tokens,
             .prefix_caching = options_.prefix_caching,
             .priorities = options_.policy == Policy::priority};
}

BatchingEngine::~BatchingEngine() = default;

void BatchingEngine::make_pool() {
  CachePool::Options pool{.block_tokens = plan_.block_tokens,
                          .groups = {},
                          .states = plan_.states,
                          .prefix_caching = options_.prefix_caching};
  for (size_t g = 0; g < needs_.windows.size(); ++g)
    pool.groups.push_back({needs_.windows[g], plan_.blocks[g]});
  // Not made from the seed: a client that knows the seed could find prompts that collide.
  const PrefixTree::Key secret = {random_word(), random_word()};
  pool_ = std::make_unique<CachePool>(pool, PrefixTree(plan_.block_tokens, secret));
  scheduler_ = std::make_unique<Scheduler>(
      Scheduler::Options{.max_num_seqs = options_.max_num_seqs,
                         .max_num_batched_tokens = options_.max_num_batched_tokens,
                         .policy = options_.policy,
                         .long_prefill_tokens = options_.long_prefill_tokens},
      *pool_);
}

// ---- requests

int64_t BatchingEngine::submit(Request request) {
  check(request, limits_);
  const bool pictures = !request.images.empty();
  if (pictures) {
    request.cache_salt += prompt::digest_of(request.images);
    runner_->add_pictures(submitted_, std::exchange(request.images, {}));
  }
  active_.try_emplace(
      submitted_,
      Active{.sampler = Sampler(request, options_.ids, options_.logprobs_mode,
                                seed_of_request(seed_, static_cast<uint64_t>(submitted_))),
             .pictures = pictures,
             .unseen = pictures});
  scheduler_->add(std::make_unique<Sequence>(submitted_, std::move(request)));
  return submitted_++;
}

void BatchingEngine::cancel(int64_t request) {
  const auto found = active_.find(request);
  if (found != active_.end() && !std::exchange(found->second.cancelled, true))
    cancelled_.push_back(request);
}

void BatchingEngine::end(int64_t request) {
  scheduler_->remove(request);
  if (active_.at(request).pictures) runner_->drop_pictures(request);
  active_.erase(request);
}

void BatchingEngine::end_with(const std::exception& error, int64_t request, Step& step) {
  Update& update = update_of(request, active_.at(request), step);
  update.finish = Finish::error;
  update.error = error.what();
  end(request);
}

void BatchingEngine::end_cancelled(Step& step) {
  for (const int64_t request : std::exchange(cancelled_, {})) {
    if (!active_.contains(request)) continue;
    step.updates.push_back({.request = request, .finish = Finish::cancelled});
    end(request);
  }
}

Update& BatchingEngine::update_of(int64_t request, Active& active, Step& step) {
  if (active.update < 0) {
    active.update = std::ssize(step.updates);
    step.updates.push_back({.request = request});
  }
  return step.updates[static_cast<size_t>(active.update)];
}

// ---- steps

std::vector<Update> BatchingEngine::step() {
  const auto start = std::chrono::steady_clock::now();
  Step step;
  end_cancelled(step);
  step.slices = scheduler_->next(budget_.tokens());
  see_pictures(step);
  if (step.slices.empty()) return std::move(step.updates);
  std::vector<int64_t> requests;  // by number, because some may have ended before something fails
  const int64_t failed = state_.failed_steps;
  int64_t answers = 0;
  for (const Slice& slice : step.slices) {
    requests.push_back(slice.sequence->id);
    answers += slice.tokens == 1 && slice.last();
  }
  try {
    run(step);
  } catch (const std::exception& error) {
    ++state_.failed_steps;
    pool_->forget_states(step.batch.copies);
    for (int64_t request : requests)
      if (active_.contains(request)) end_with(error, request, step);
  }
  for (int64_t request : requests) {
    const auto active = active_.find(request);
    if (active != active_.end()) active->second.update = -1;
  }
  ++state_.steps;
  state_.step_seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (state_.failed_steps == failed)
    budget_.took(state_.step_seconds, answers, step.batch.tokens() - answers);
  return std::move(step.updates);
}

void BatchingEngine::see_pictures(Step& step) {
  std::erase_if(step.slices, [&](const Slice& slice) {
    const int64_t id = slice.sequence->id;
    if (!std::exchange(active_.at(id).unseen, false)) return false;
    try {
      runner_->see_pictures(id);
      return false;
    } catch (const std::exception& error) {
      end_with(error, id, step);
      return true;
    }
  });
}

void BatchingEngine::run(Step& step) {
  fill_batch(step);
  const Runner::Ticket ticket = runner_->launch(step.batch);
  runner_->collect(ticket, [&](int64_t first, const Logits& logits) { read(logits, first, step); });
  commit(step);
}

void BatchingEngine::fill_batch(Step& step) {
  Batch& batch = step.batch;
  batch.copies = pool_->take_copies();
  batch.tables.resize(needs_.windows.size());
  for (const Slice& slice : step.slices) {
    const Sequence& sequence = *slice.sequence;
    Active& active = active_.at(sequence.id);
    step.active.push_back(&active);
    want_rows(slice, active, step);
    const auto tokens =
        std::span(sequence.tokens)
            .subspan(static_cast<size_t>(sequence.computed), static_cast<size_t>(slice.tokens));
    batch.ids.insert(batch.ids.end(), tokens.begin(), tokens.end());
    batch.bounds.push_back(batch.bounds.back() + slice.tokens);
    batch.past.push_back(sequence.computed);
    batch.slots.push_back(sequence.lease.state);
    batch.pictures.push_back(active.pictures ? sequence.id : -1);
    for (size_t g = 0; g < batch.tables.size(); ++g) {
      Batch::Table& table = batch.tables[g];
      const std::vector<int32_t>& blocks = sequence.lease.tables[g];
      table.begins.push_back(std::ssize(table.blocks));
      table.blocks.insert(table.blocks.end(), blocks.begin(), blocks.end());
    }
  }
}

// The logits after token t say how likely token t + 1 was, and those after the last one draw.
void BatchingEngine::want_rows(const Slice& slice, Active& active, Step& step) {
  Sequence& sequence = *slice.sequence;
  const Request& request = sequence.request;
  const int64_t first_row = step.batch.tokens(), end = sequence.computed + slice.tokens;
  const auto want = [&](int64_t token, int64_t reported) {
    step.batch.rows.push_back(first_row + token - sequence.computed);
    step.rows.push_back({&sequence, &active, reported});
  };
  if (request.prompt_logprobs) {
    // After a preemption some are there already.
    const int64_t begin = std::max(sequence.computed, std::ssize(active.prompt_reports)),
                  last = std::min(end, std::ssize(request.tokens) - 1);
    for (int64_t t = begin; t < last; ++t) want(t, t);
    if (last > begin) active.prompt_reports.resize(static_cast<size_t>(last));
  }
  if (slice.last()) want(end - 1, -1);
}

void BatchingEngine::read(const Logits& logits, int64_t first, Step& step) {
  parallel_for(logits.rows(), [&](int64_t i) {
    Step::Row& row = step.rows[static_cast<size_t>(first + i)];
    const Request& request = row.sequence->request;
    Active& active = *row.active;
    guarded(row.error, [&] {
      const auto t = static_cast<size_t>(row.reported);
      if (row.reported < 0)
        active.drawn = active.sampler.next(logits.row(i), row.sequence->answer());
      else
        active.prompt_reports[t] = report(logits.row(i), request.tokens[t + 1],
                                          *request.prompt_logprobs, options_.logprobs_mode);
    });
  });
}

void BatchingEngine::commit(Step& step) {
  for (const Step::Row& row : step.rows)
    if (row.error && !row.active->error) row.active->error = row.error;
  state_.step_tokens = step.batch.tokens();
  for (size_t i = 0; i < step.slices.size(); ++i) {
    const Slice& slice = step.slices[i];
    Sequence& sequence = *slice.sequence;
    Active& active = *step.active[i];
    if (!sequence.begun) update_of(sequence.id, active, step).cached_tokens = sequence.computed;
    sequence.begun = true;
    state_.prompt_tokens += sequence.missing() > 1 || sequence.answer().empty() ? slice.tokens : 0;
    state_.recomputed_tokens += sequence.preempted && !slice.last() ? slice.tokens : 0;
    scheduler_->computed(slice);
    if (!end_failed(sequence, active, step) && active.drawn) deliver(sequence, active, step);
  }
}

bool BatchingEngine::end_failed(Sequence& sequence, Active& active, Step& step) {
  if (!active.error) return false;
  try {
    std::rethrow_exception(active.error);
  } catch (const std::exception& error) {
    if (dynamic_cast<const CorruptedLogits*>(&error)) {
      // The fault may pass with this step; what it has left in the caches must not outlive it.
      pool_->forget_path(sequence.lease);
      ++state_.corrupted_requests;
      ++state_.corrupted_in_a_row;
    }
    end_with(error, sequence.id, step);
  }
  return true;
}

void BatchingEngine::deliver(Sequence& sequence, Active& active, Step& step) {
  Sampler::Drawn drawn = std::move(*active.drawn);
  active.drawn.reset();
  Update& update = update_of(sequence.id, active, step);
  sequence.tokens.push_back(drawn.token);
  ++state_.new_tokens;
  state_.corrupted_in_a_row = 0;
  update.tokens = {drawn.token};
  if (drawn.report) update.reports = {std::move(*drawn.report)};
  if (sequence.answer().size() == 1) update.prompt_reports = std::move(active.prompt_reports);
  update.finish = sequence.finish(limits_.max_model_len);
  if (update.finish) end(sequence.id);
}

EngineState BatchingEngine::state() const {
  EngineState state = state_;
  state.running = scheduler_->running();
  state.waiting = scheduler_->waiting();
  state.preemptions = scheduler_->preemptions();
  state.prefix_queries = scheduler_->prefix_queries();
  state.prefix_hits = scheduler_->prefix_hits();
  // Groups are in the order of their windows, and layers that see all have window 0.
  if (!needs_.windows.empty() && needs_.windows.front() == 0)
    state.kv_tokens_used = (pool_->blocks(0) - pool_->free_blocks(0)) * limits_.block_tokens;
  return state;
}

}  // namespace quern::engine
