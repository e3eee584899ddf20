// Which tokens of which sequences the next pass computes. There is no phase for prompts and none
// for answers: every pass brings sequences nearer to having all their tokens in the caches, running
// ones first, and long prompts go in as many pieces as it takes. When the caches are full, the
// latest sequence gives back all it holds and is computed again later. Knows tokens and blocks, and
// nothing of models.
#pragma once

#include <memory>
#include <vector>

#include "engine/waiting.h"

namespace quern::engine {

// The next `tokens` tokens of a sequence that its caches lack.
struct Slice {
  Sequence* sequence;
  int64_t tokens;

  bool last() const { return tokens == sequence->missing(); }  // and then a token is drawn
};

class Scheduler {
 public:
  struct Options {
    int64_t max_num_seqs = 16;
    int64_t max_num_batched_tokens = 2048;
    Policy policy = Policy::fcfs;
    // A prompt takes no more than this of one pass; 0: all that is left of it.
    int64_t long_prefill_tokens = 0;
  };

  Scheduler(const Options& options, CachePool& pool);
  ~Scheduler();

  void add(std::unique_ptr<Sequence> sequence) { waiting_.push(std::move(sequence)); }
  // Running sequences first, in their order; leases have room for the slices. Empty only when
  // nothing is running or waiting.
  std::vector<Slice> next();
  // The caches hold the slice from now on.
  void computed(const Slice& slice);
  // Takes a sequence out, wherever it stands, and gives its lease back. Null if it is not here.
  std::unique_ptr<Sequence> remove(int64_t id);

  int64_t running() const { return std::ssize(running_); }
  int64_t waiting() const { return waiting_.size(); }
  int64_t preemptions() const { return preemptions_; }
  int64_t prefix_queries() const { return prefix_queries_; }  // tokens that were looked up
  int64_t prefix_hits() const { return prefix_hits_; }        // and found

 private:
  std::vector<std::unique_ptr<Sequence>>::iterator place_of(int64_t id);
  int64_t wanted(const Sequence& sequence, int64_t budget) const;
  // Makes room for the sequence at the cost of later ones; false if it had to go itself.
  bool make_room(Sequence& sequence, int64_t tokens, std::vector<Slice>& slices, int64_t& budget);
  void preempt(Sequence& victim, std::vector<Slice>& slices, int64_t& budget);
  // Whether a sequence of this pass is about to make most of what the next one would compute.
  bool worth_waiting(const Sequence& next, const std::vector<Slice>& slices) const;
  // Starts the sequence whose turn it is, if there is room.
  bool admit(std::vector<Slice>& slices, int64_t& budget);

  Options options_;
  CachePool& pool_;
  std::vector<std::unique_ptr<Sequence>> running_;
  WaitingQueue waiting_;
  int64_t preemptions_ = 0, prefix_queries_ = 0, prefix_hits_ = 0;
};

}  // namespace quern::engine
