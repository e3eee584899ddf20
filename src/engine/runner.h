// The arithmetic behind an engine: what computes a Batch and owns weights and caches. The engine
// decides what is computed, and knows nothing of how.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "engine/batch.h"
#include "engine/memory_plan.h"
#include "prompt/media.h"

namespace quern::engine {

// Some rows of logits, fp32 [rows, vocabulary].
struct Logits {
  std::span<const float> values;
  int64_t vocabulary;

  int64_t rows() const { return static_cast<int64_t>(values.size()) / vocabulary; }
  std::span<const float> row(int64_t i) const {
    return values.subspan(static_cast<size_t>(i * vocabulary), static_cast<size_t>(vocabulary));
  }
};

class Runner {
 public:
  // Rows [first, first + logits.rows()) of those that the batch wants.
  using Reader = std::function<void(int64_t first, const Logits& logits)>;
  enum class Ticket : int64_t {};

  virtual ~Runner() = default;

  virtual int64_t vocabulary() const = 0;
  virtual MemoryNeeds needs() const = 0;
  // Once, before the first batch.
  virtual void make_caches(const MemoryPlan& plan) = 0;

  // Begins a pass; the batch stays as it is until the pass is collected. What fails, here or in
  // collect(), fails the whole pass.
  virtual Ticket launch(const Batch& batch) = 0;
  // Waits for the pass and hands its logits over, in pieces and in order.
  virtual void collect(Ticket ticket, const Reader& read) = 0;

  // The pictures of a request, to which Batch::pictures refers. Fails with Exit::usage where the
  // model sees none.
  virtual void add_pictures(int64_t request, std::vector<prompt::ImagePrompt::Image> images) = 0;
  // Makes features of them, before the first pass of the request.
  virtual void see_pictures(int64_t request) = 0;
  virtual void drop_pictures(int64_t request) = 0;
};

}  // namespace quern::engine
