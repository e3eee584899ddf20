#include "engine/scheduler.h"

#include <algorithm>

#include "base/error.h"

namespace quern::engine {

Scheduler::Scheduler(const Options& options, CachePool& pool)
    : options_(options), pool_(pool), waiting_(options.policy, options.max_num_batched_tokens) {}

Scheduler::~Scheduler() {
  for (const auto& sequence : running_) pool_.close(sequence->lease);
}

std::vector<std::unique_ptr<Sequence>>::iterator Scheduler::place_of(int64_t id) {
  return std::ranges::find(running_, id, [](const auto& sequence) { return sequence->id; });
}

int64_t Scheduler::wanted(const Sequence& sequence, int64_t budget) const {
  int64_t tokens = std::min(sequence.missing(), budget);
  if (options_.long_prefill_tokens > 0) tokens = std::min(tokens, options_.long_prefill_tokens);
  return std::min(tokens, pool_.next_stop(sequence.lease) - sequence.computed);
}

void Scheduler::preempt(Sequence& victim, std::vector<Slice>& slices, int64_t& budget) {
  std::erase_if(slices, [&](const Slice& slice) {
    if (slice.sequence != &victim) return false;
    budget += slice.tokens;
    return true;
  });
  pool_.close(victim.lease);
  victim.computed = 0;
  victim.preempted = true;
  ++preemptions_;
  const auto place = place_of(victim.id);
  waiting_.push_again(std::move(*place));
  running_.erase(place);
}

bool Scheduler::make_room(Sequence& sequence, int64_t tokens, std::vector<Slice>& slices,
                          int64_t& budget) {
  while (!pool_.grow(sequence.lease, sequence.computed + tokens)) {
    auto later = [&](const auto& a, const auto& b) {
      if (options_.policy == Policy::priority && a->request.priority != b->request.priority)
        return a->request.priority < b->request.priority;
      return a->id < b->id;
    };
    Sequence& victim = **std::ranges::max_element(running_, later);
    QUERN_CHECK(running_.size() > 1);  // one sequence has room always: Limits::max_model_len
    const bool itself = &victim == &sequence;
    preempt(victim, slices, budget);
    if (itself) return false;
  }
  return true;
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

bool Scheduler::admit(std::vector<Slice>& slices, int64_t& budget) {
  Sequence* next = waiting_.front();
  if (!next || running() >= options_.max_num_seqs) return false;
  // Reports of the prompt need the logits of all its tokens.
  const bool reports = next->request.prompt_logprobs && next->answer().empty();
  const std::optional<int64_t> known =
      pool_.open(next->lease, next->tokens, next->request.cache_salt,
                 reports ? CachePool::Lookup::no : CachePool::Lookup::yes);
  if (!known) return false;
  next->computed = *known;
  const int64_t tokens = wanted(*next, budget);
  if ((!reports && pool_.prefix_caching() && worth_waiting(*next, slices)) ||
      !pool_.grow(next->lease, next->computed + tokens)) {
    pool_.close(next->lease);
    next->computed = 0;
    QUERN_CHECK(!running_.empty());
    return false;
  }
  if (!reports) prefix_queries_ += next->length();
  prefix_hits_ += *known;
  running_.push_back(waiting_.pop());
  slices.push_back({next, tokens});
  budget -= tokens;
  return true;
}

std::vector<Slice> Scheduler::next() {
  std::vector<Slice> slices;
  int64_t budget = options_.max_num_batched_tokens;
  const int64_t before = preemptions_;
  for (size_t i = 0; i < running_.size() && budget > 0;) {
    Sequence& sequence = *running_[i];
    const int64_t tokens = wanted(sequence, budget);
    // Its own place may be taken by the one behind it.
    if (!make_room(sequence, tokens, slices, budget)) continue;
    slices.push_back({&sequence, tokens});
    budget -= tokens;
    i = static_cast<size_t>(place_of(sequence.id) - running_.begin()) + 1;
  }
  while (preemptions_ == before && budget > 0 && admit(slices, budget)) {
  }
  return slices;
}

void Scheduler::computed(const Slice& slice) {
  Sequence& sequence = *slice.sequence;
  sequence.computed += slice.tokens;
  pool_.commit(sequence.lease,
               std::span(sequence.tokens).first(static_cast<size_t>(sequence.computed)));
}

std::unique_ptr<Sequence> Scheduler::remove(int64_t id) {
  const auto place = place_of(id);
  if (place == running_.end()) return waiting_.remove(id);
  std::unique_ptr<Sequence> sequence = std::move(*place);
  running_.erase(place);
  pool_.close(sequence->lease);
  return sequence;
}

}  // namespace quern::engine
