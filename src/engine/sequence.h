// One request on its way through the engine: its tokens, what it holds of the caches, its sampler.
#pragma once

#include "engine/cache_pool.h"
#include "engine/request.h"

namespace quern::engine {

struct Sequence {
  Sequence(int64_t number, Request accepted)
      : id(number), request(std::move(accepted)), tokens(request.tokens) {}

  int64_t id;
  Request request;
  std::vector<int32_t> tokens;  // the prompt's and the new ones
  int64_t computed = 0;         // of them, how many the caches hold
  Lease lease;
  bool running = false;    // has a lease, and a place in passes
  bool begun = false;      // an update has told of it
  bool preempted = false;  // since then it has been computed once before

  int64_t length() const { return static_cast<int64_t>(tokens.size()); }
  int64_t missing() const { return length() - computed; }
  std::span<const int32_t> answer() const {
    return std::span(tokens).subspan(request.tokens.size());
  }
  std::optional<Finish> finish(int64_t max_model_len) const;
};

}  // namespace quern::engine
