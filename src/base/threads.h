// One pool of threads for the whole program. Work is cut into items whose size does not depend on
// the number of threads, so results do not either; threads take items from a shared counter, so a
// slow core does not delay the others.
#pragma once

#include <cstdint>
#include <functional>

namespace quern {

// Threads used by parallel_for, the caller included; default: all cores. Waits for a running
// parallel_for. Must not be called inside a body.
void set_threads(int threads);
int threads();

// Runs body(0) ... body(items - 1), each exactly once, in any order, on any thread; returns when
// all are done. The first exception is rethrown in the caller after the started items are done. A
// call inside a body runs its items one after another; calls from several threads take turns.
void parallel_for(int64_t items, const std::function<void(int64_t item)>& body);

// Cuts [0, total) into pieces of `piece` and runs body(begin, end) for each.
void parallel_pieces(int64_t total, int64_t piece,
                     const std::function<void(int64_t begin, int64_t end)>& body);

}  // namespace quern
