// Requests that wait for their turn. First come, first served among those of one key; keys take
// turns by the work that they ask for (deficit round robin: Shreedhar and Varghese, 1995), so that
// a key that sends much delays its own requests and no others.
#pragma once

#include <deque>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "engine/options.h"
#include "engine/sequence.h"

namespace quern::engine {

class WaitingQueue {
 public:
  // `quantum`: tokens of work that a key may ask for in its turn. Under Policy::priority the
  // smallest priority goes first, then the earliest, whatever the key.
  WaitingQueue(Policy policy, int64_t quantum);

  void push(std::unique_ptr<Sequence> sequence);
  // A preempted one goes before all that have not begun; of several the earliest first.
  void push_again(std::unique_ptr<Sequence> sequence);
  // The sequence whose turn it is; null if none waits. It stays the same until a sequence is pushed
  // or removed.
  Sequence* front();
  std::unique_ptr<Sequence> pop();
  // Sets the sequence whose turn it is aside until recall(), so that those behind it may start
  // first.
  void defer();
  void recall();
  // Null if it does not wait here.
  std::unique_ptr<Sequence> remove(int64_t id);
  // Whether a sequence waits that the running one must leave room for: one of another key, or under
  // Policy::priority a more urgent one.
  bool rivals(const Sequence& running) const;
  int64_t size() const { return size_; }

 private:
  struct Turn {
    std::string key;
    int64_t credit = 0;
    std::deque<std::unique_ptr<Sequence>> sequences;
  };

  bool earlier(const Sequence& a, const Sequence& b) const;
  std::deque<std::unique_ptr<Sequence>>* next_queue();

  Policy policy_;
  int64_t quantum_;
  std::deque<std::unique_ptr<Sequence>> again_;
  std::list<Turn> turns_;  // the first one is taking its turn
  std::vector<std::unique_ptr<Sequence>> deferred_;
  int64_t size_ = 0;  // those that are deferred too
};

}  // namespace quern::engine
