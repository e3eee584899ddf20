// Requests -> tokens, many at a time. One thread calls an engine; only check() of request.h may run
// on others.
#pragma once

#include "engine/request.h"

namespace quern::engine {

class Engine {
 public:
  virtual ~Engine() = default;

  // Returns the number by which updates name the request. Fails as check() does.
  virtual int64_t submit(Request request) = 0;
  // One pass of the model for the requests whose turn it is. Every request that was submitted ends
  // in exactly one update with `finish`; what goes wrong in a step ends its requests, not the
  // engine.
  virtual std::vector<Update> step() = 0;
  // The request ends with Finish::cancelled in the next step; nothing happens if it has ended.
  virtual void cancel(int64_t request) = 0;
  // No request is left, and step() would do nothing.
  virtual bool idle() const = 0;

  virtual const Limits& limits() const = 0;
  virtual EngineState state() const = 0;
};

}  // namespace quern::engine
