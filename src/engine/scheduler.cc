#include "engine/scheduler.h"

#include <algorithm>
#include <limits>
#include <tuple>

#include "base/error.h"

namespace quern::engine {
namespace {

// Tokens that are kept for each waiting sequence to begin with: the rest follows in the next pass.
constexpr int64_t kFirstChunk = 16;
// Waiting ones that a pass looks at in vain: each look reads a prompt.
constexpr int64_t kMostDeferred = 16;

}  // namespace

Scheduler::Scheduler(const Options& options, CachePool& pool)
    : options_(options), pool_(pool), waiting_(options.policy, options.max_num_batched_tokens) {}

Scheduler::~Scheduler() {
  for (const auto& [id, sequence] : running_) pool_.close(sequence->lease);
}

// ---- sequences come and go

void Scheduler::start(std::unique_ptr<Sequence> sequence) {
  if (running_.empty()) shares_.clear();
  int64_t least = shares_.empty() ? 0 : std::numeric_limits<int64_t>::max();
  for (const auto& [key, share] : shares_)
    if (share.running > 0) least = std::min(least, share.read);
  // A key that was away has saved nothing up, and keeps what it was ahead.
  std::erase_if(shares_, [&](const auto& item) {
    return item.second.running == 0 && item.second.read <= least;
  });
  Share& share = shares_.try_emplace(sequence->request.fairness_key, Share{0, least}).first->second;
  ++share.running;
  sequence->running = true;
  const int64_t id = sequence->id;
  running_.emplace(id, std::move(sequence));
}

std::unique_ptr<Sequence> Scheduler::stop(int64_t id) {
  const auto place = running_.find(id);
  if (place == running_.end()) return nullptr;
  std::unique_ptr<Sequence> sequence = std::move(place->second);
  running_.erase(place);
  pool_.close(sequence->lease);
  sequence->running = false;
  --shares_.at(sequence->request.fairness_key).running;
  return sequence;
}

std::unique_ptr<Sequence> Scheduler::remove(int64_t id) {
  std::unique_ptr<Sequence> sequence = stop(id);
  return sequence ? std::move(sequence) : waiting_.remove(id);
}

void Scheduler::preempt(Sequence& victim, Pass& pass) {
  std::erase_if(pass.slices, [&](const Slice& slice) {
    if (slice.sequence != &victim) return false;
    pass.budget += slice.tokens;
    return true;
  });
  std::unique_ptr<Sequence> sequence = stop(victim.id);
  sequence->computed = 0;
  sequence->preempted = true;
  ++preemptions_;
  waiting_.push_again(std::move(sequence));
}

bool Scheduler::make_room(Sequence& sequence, int64_t tokens, Pass& pass) {
  while (!pool_.grow(sequence.lease, sequence.computed + tokens)) {
    auto later = [&](const auto& a, const auto& b) {
      if (options_.policy == Policy::priority &&
          a.second->request.priority != b.second->request.priority)
        return a.second->request.priority < b.second->request.priority;
      return a.first < b.first;
    };
    Sequence& victim = *std::ranges::max_element(running_, later)->second;
    QUERN_CHECK(running_.size() > 1);  // one sequence has room always: Limits::max_model_len
    const bool itself = &victim == &sequence;
    preempt(victim, pass);
    if (itself) return false;
  }
  return true;
}

// ---- the shares of a pass

int64_t Scheduler::wanted(const Sequence& sequence, int64_t most) const {
  int64_t tokens = std::min(sequence.missing(), most);
  if (options_.long_prefill_tokens > 0) tokens = std::min(tokens, options_.long_prefill_tokens);
  return std::min(tokens, pool_.next_stop(sequence.lease) - sequence.computed);
}

int64_t Scheduler::kept_room(const Sequence& sequence, const Pass& pass, bool finishes) const {
  if (pass.places == 0) return 0;
  // A prompt that comes to its end is out of the way of those behind it.
  const bool yields = options_.policy == Policy::priority || finishes;
  if (yields && !waiting_.rivals(sequence)) return 0;
  return std::min(pass.places * kFirstChunk, std::max<int64_t>(1, pass.whole / 2));
}

int64_t Scheduler::allowance(const Sequence& sequence, const Pass& pass) const {
  const int64_t half = std::max<int64_t>(1, pass.whole / 2),
                quarter = std::max<int64_t>(1, pass.whole / 4);
  const bool earliest = pass.earliest == &sequence;
  const int64_t promised = earliest ? std::min(quarter, pass.budget) : 0;
  const int64_t left =
      pass.budget - (pass.earliest && !earliest ? std::min(pass.earliest->missing(), quarter) : 0);
  if (sequence.missing() <= left - kept_room(sequence, pass, /*finishes=*/true))
    return sequence.missing();
  const int64_t most = left - kept_room(sequence, pass, /*finishes=*/false);
  const bool alone = pass.places == 0 && pass.prompts.size() <= 1;
  if (alone || options_.policy == Policy::priority) return std::max(promised, most);
  return std::max(promised, std::min(half, most));
}

std::vector<Sequence*> Scheduler::prompts_in_turn() const {
  std::vector<Sequence*> prompts;
  for (const auto& [id, sequence] : running_)
    if (sequence->missing() > 1) prompts.push_back(sequence.get());
  std::ranges::sort(prompts, {}, [&](const Sequence* sequence) {
    if (options_.policy == Policy::priority)
      return std::tuple(sequence->request.priority, int64_t{0}, sequence->id);
    return std::tuple(shares_.at(sequence->request.fairness_key).read, sequence->missing(),
                      sequence->id);
  });
  return prompts;
}

// ---- a pass

void Scheduler::add_answers(Pass& pass) {
  std::vector<Sequence*> all;  // `running_` changes when one of them is preempted
  for (const auto& [id, sequence] : running_)
    if (sequence->missing() == 1) all.push_back(sequence.get());
  for (Sequence* sequence : all) {
    if (pass.budget == 0) return;
    if (!sequence->running || !make_room(*sequence, 1, pass)) continue;
    pass.slices.push_back({sequence, 1});
    --pass.budget;
  }
}

void Scheduler::add_prompts(Pass& pass) {
  pass.prompts = prompts_in_turn();
  if (options_.policy == Policy::fcfs && !pass.prompts.empty())
    pass.earliest = std::ranges::min(pass.prompts, {}, &Sequence::id);
  pass.places = std::min(waiting_.size(), options_.max_num_seqs - running());
  for (Sequence* sequence : pass.prompts) {
    if (pass.earliest && !pass.earliest->running) pass.earliest = nullptr;
    if (!sequence->running) continue;
    const int64_t tokens = wanted(*sequence, allowance(*sequence, pass));
    if (tokens == 0 || !make_room(*sequence, tokens, pass)) continue;
    pass.slices.push_back({sequence, tokens});
    pass.budget -= tokens;
    if (pass.earliest == sequence) pass.earliest = nullptr;
  }
  pass.earliest = nullptr;
}

// Equal prompts that come together, as for several answers to one, would otherwise all be computed.
bool Scheduler::worth_waiting(const Sequence& next, const std::vector<Slice>& slices) const {
  const int64_t block = pool_.block_tokens();
  return std::ranges::any_of(slices, [&](const Slice& slice) {
    const Sequence& other = *slice.sequence;
    if (other.request.cache_salt != next.request.cache_salt || other.missing() <= 1) return false;
    const int64_t common =
        std::ranges::mismatch(next.tokens, other.tokens).in1 - next.tokens.begin();
    const int64_t findable = std::min(common, next.length() - 1) / block * block;
    return 2 * (findable - next.computed) > next.missing();
  });
}

bool Scheduler::admit(Pass& pass) {
  Sequence* next = waiting_.front();
  if (!next || running() >= options_.max_num_seqs) return false;
  // Reports of the prompt need the logits of all its tokens.
  const bool reports = next->request.prompt_logprobs && next->answer().empty();
  const std::optional<int64_t> known =
      pool_.open(next->lease, next->tokens, next->request.cache_salt,
                 reports ? CachePool::Lookup::no : CachePool::Lookup::yes);
  if (!known) return false;
  next->computed = *known;
  pass.places = std::min(waiting_.size(), options_.max_num_seqs - running()) - 1;
  pass.prompts.push_back(next);
  const int64_t tokens = wanted(*next, std::max<int64_t>(1, allowance(*next, pass)));
  const bool waits = !reports && pool_.prefix_caching() && worth_waiting(*next, pass.slices);
  if (waits || !pool_.grow(next->lease, next->computed + tokens)) {
    pass.prompts.pop_back();
    pool_.close(next->lease);
    next->computed = 0;
    QUERN_CHECK(!running_.empty());
    if (!waits || ++pass.deferred > kMostDeferred) return false;
    waiting_.defer();
    return true;
  }
  if (!reports) prefix_queries_ += next->length();
  prefix_hits_ += *known;
  start(waiting_.pop());
  pass.slices.push_back({next, tokens});
  pass.budget -= tokens;
  return true;
}

void Scheduler::spread_rest(Pass& pass) {
  for (Sequence* sequence : pass.prompts) {
    if (pass.budget == 0) return;
    if (!sequence->running) continue;
    const auto slice = std::ranges::find(pass.slices, sequence, &Slice::sequence);
    const bool has = slice != pass.slices.end();
    const int64_t before = has ? slice->tokens : 0,
                  tokens = wanted(*sequence, before + pass.budget);
    if (tokens <= before) continue;
    // Room that is free; but a pass must do something.
    if (!pass.slices.empty() ? !pool_.grow(sequence->lease, sequence->computed + tokens)
                             : !make_room(*sequence, tokens, pass))
      continue;
    if (has)
      slice->tokens = tokens;
    else
      pass.slices.push_back({sequence, tokens});
    pass.budget -= tokens - before;
  }
}

void Scheduler::charge(const Pass& pass) {
  for (const auto& [sequence, tokens] : pass.slices)
    if (sequence->missing() > 1) shares_.at(sequence->request.fairness_key).read += tokens;
}

std::vector<Slice> Scheduler::next(int64_t prompts) {
  Pass pass{.budget = options_.max_num_batched_tokens};
  const int64_t before = preemptions_;
  add_answers(pass);
  if (!pass.slices.empty()) pass.budget = std::min(pass.budget, prompts);
  pass.whole = pass.budget;
  add_prompts(pass);
  while (preemptions_ == before && pass.budget > 0 && admit(pass)) {
  }
  waiting_.recall();
  spread_rest(pass);
  charge(pass);
  return std::move(pass.slices);
}

void Scheduler::computed(const Slice& slice) {
  Sequence& sequence = *slice.sequence;
  sequence.computed += slice.tokens;
  pool_.commit(sequence.lease,
               std::span(sequence.tokens).first(static_cast<size_t>(sequence.computed)));
}

}  // namespace quern::engine
