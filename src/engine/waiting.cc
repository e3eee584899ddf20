#include "engine/waiting.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace quern::engine {
namespace {

// Tokens that go through the model at most.
int64_t work(const Sequence& sequence) { return sequence.length() + sequence.request.max_tokens; }

}  // namespace

WaitingQueue::WaitingQueue(Policy policy, int64_t quantum) : policy_(policy), quantum_(quantum) {
  QUERN_CHECK(quantum > 0);
}

bool WaitingQueue::earlier(const Sequence& a, const Sequence& b) const {
  if (policy_ == Policy::priority && a.request.priority != b.request.priority)
    return a.request.priority < b.request.priority;
  return a.id < b.id;
}

void WaitingQueue::push(std::unique_ptr<Sequence> sequence) {
  const std::string key = policy_ == Policy::priority ? "" : sequence->request.fairness_key;
  auto turn = std::ranges::find(turns_, key, &Turn::key);
  if (turn == turns_.end()) turn = turns_.insert(turns_.end(), {key, 0, {}});
  auto place = turn->sequences.end();
  while (place != turn->sequences.begin() && earlier(*sequence, **std::prev(place))) --place;
  turn->sequences.insert(place, std::move(sequence));
  ++size_;
}

void WaitingQueue::push_again(std::unique_ptr<Sequence> sequence) {
  auto place = again_.begin();
  while (place != again_.end() && earlier(**place, *sequence)) ++place;
  again_.insert(place, std::move(sequence));
  ++size_;
}

std::deque<std::unique_ptr<Sequence>>* WaitingQueue::next_queue() {
  const bool waiting = !turns_.empty();
  // A preempted request yields only to a more urgent one.
  if (!again_.empty() && !(policy_ == Policy::priority && waiting &&
                           earlier(*turns_.front().sequences.front(), *again_.front())))
    return &again_;
  if (!waiting) return nullptr;
  while (turns_.size() > 1 && turns_.front().credit < work(*turns_.front().sequences.front())) {
    turns_.front().credit += quantum_;
    turns_.splice(turns_.end(), turns_, turns_.begin());
  }
  return &turns_.front().sequences;
}

bool WaitingQueue::rivals(const Sequence& running) const {
  if (policy_ == Policy::priority) {
    const auto urgent = [&](const auto& waiting) { return earlier(*waiting, running); };
    return std::ranges::any_of(again_, urgent) ||
           (!turns_.empty() && urgent(turns_.front().sequences.front()));
  }
  const std::string& key = running.request.fairness_key;
  return std::ranges::any_of(turns_, [&](const Turn& turn) { return turn.key != key; });
}

Sequence* WaitingQueue::front() {
  auto* queue = next_queue();
  return queue ? queue->front().get() : nullptr;
}

std::unique_ptr<Sequence> WaitingQueue::pop() {
  auto* queue = next_queue();
  QUERN_CHECK(queue);
  std::unique_ptr<Sequence> sequence = std::move(queue->front());
  queue->pop_front();
  --size_;
  if (queue == &again_) return sequence;
  Turn& turn = turns_.front();
  // Alone, a key needs no credit and runs up no debt.
  turn.credit = turns_.size() > 1 ? turn.credit - work(*sequence) : 0;
  if (turn.sequences.empty()) turns_.pop_front();
  return sequence;
}

void WaitingQueue::defer() {
  auto* queue = next_queue();
  QUERN_CHECK(queue);
  deferred_.push_back(std::move(queue->front()));
  queue->pop_front();
  if (queue != &again_ && queue->empty()) turns_.pop_front();
}

void WaitingQueue::recall() {
  for (auto& sequence : std::exchange(deferred_, {})) {
    --size_;
    if (sequence->preempted)
      push_again(std::move(sequence));
    else
      push(std::move(sequence));
  }
}

std::unique_ptr<Sequence> WaitingQueue::remove(int64_t id) {
  auto take = [&](std::deque<std::unique_ptr<Sequence>>& queue) -> std::unique_ptr<Sequence> {
    const auto found = std::ranges::find(queue, id, [](const auto& s) { return s->id; });
    if (found == queue.end()) return nullptr;
    std::unique_ptr<Sequence> sequence = std::move(*found);
    queue.erase(found);
    --size_;
    return sequence;
  };
  if (auto sequence = take(again_)) return sequence;
  for (auto turn = turns_.begin(); turn != turns_.end(); ++turn) {
    if (auto sequence = take(turn->sequences)) {
      if (turn->sequences.empty()) turns_.erase(turn);
      return sequence;
    }
  }
  return nullptr;
}

}  // namespace quern::engine
