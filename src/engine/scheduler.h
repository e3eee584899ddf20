// Which tokens of which sequences the next pass computes. There is no phase for prompts and none
// for answers: every pass brings sequences nearer to having all their tokens in the caches. Answers
// go first, a token each; prompts share what is left of the pass, and long ones go in as many
// pieces as it takes. When the caches are full, the latest sequence gives back all it holds and is
// computed again later. Knows tokens and blocks, and nothing of models.
//
// A prompt that a pass cannot finish takes at most half of the pass while other prompts wait or
// run. The key with the fewest tokens read goes first, and within a key the prompt with the fewest
// tokens left. The earliest prompt always gets a quarter of a pass, so that it is never starved.
#pragma once

#include <limits>
#include <map>
#include <memory>
#include <string>
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
    // A prompt takes no more than this of one pass; 0: all that fairness leaves it.
    int64_t long_prefill_tokens = 0;
  };

  Scheduler(const Options& options, CachePool& pool);
  ~Scheduler();

  void add(std::unique_ptr<Sequence> sequence) { waiting_.push(std::move(sequence)); }
  // One slice of each sequence at most; leases have room for them. Empty only when nothing is
  // running or waiting. A pass with answers reads no more than `prompts` tokens of prompts.
  std::vector<Slice> next(int64_t prompts = std::numeric_limits<int64_t>::max());
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
  // A pass while it is filled.
  struct Pass {
    int64_t budget;     // tokens that still find room
    int64_t whole = 0;  // of it, what prompts share
    std::vector<Slice> slices = {};
    std::vector<Sequence*> prompts = {};  // in the order of their turns
    const Sequence* earliest = nullptr;   // of the prompts, until it has its share
    int64_t places = 0;                   // waiting ones that could begin
    int64_t deferred = 0;                 // waiting ones that wait for a slice of this pass
  };
  // What has been done for a key.
  struct Share {
    int64_t running = 0;  // sequences
    int64_t read = 0;     // tokens of prompts, since keys compete
  };

  int64_t wanted(const Sequence& sequence, int64_t most) const;
  // Tokens that the prompt may have of the pass.
  int64_t allowance(const Sequence& sequence, const Pass& pass) const;
  // What the pass keeps for waiting ones that the sequence must not keep out.
  int64_t kept_room(const Sequence& sequence, const Pass& pass, bool finishes) const;
  std::vector<Sequence*> prompts_in_turn() const;

  void add_answers(Pass& pass);
  void add_prompts(Pass& pass);
  // Starts the sequence whose turn it is, if there is room, or lets it wait for what this pass
  // computes; false if no other could begin either.
  bool admit(Pass& pass);
  // Gives prompts the tokens of the pass that are left over.
  void spread_rest(Pass& pass);
  void charge(const Pass& pass);

  // Makes room for the sequence at the cost of later ones; false if it had to go itself.
  bool make_room(Sequence& sequence, int64_t tokens, Pass& pass);
  void preempt(Sequence& victim, Pass& pass);
  void start(std::unique_ptr<Sequence> sequence);
  std::unique_ptr<Sequence> stop(int64_t id);
  // Whether a sequence of this pass is about to make most of what the next one would compute.
  bool worth_waiting(const Sequence& next, const std::vector<Slice>& slices) const;

  Options options_;
  CachePool& pool_;
  std::map<int64_t, std::unique_ptr<Sequence>> running_;  // by id: the earliest first
  std::map<std::string, Share> shares_;                   // by fairness key
  WaitingQueue waiting_;
  int64_t preemptions_ = 0, prefix_queries_ = 0, prefix_hits_ = 0;
};

}  // namespace quern::engine
