#include "runner/probe.h"

#include <algorithm>

#include "tensor/machine_memory.h"

namespace quern::runner {
namespace {

// Enough that tensors outweigh scratch memory, and few enough for a second or two.
constexpr int64_t kTokens = 64, kRows = 8;

int64_t scaled(int64_t bytes, int64_t from, int64_t to) { return (bytes * to + from - 1) / from; }

}  // namespace

Probe probe(const StepParts& parts, int64_t tokens, int64_t rows) {
  const int64_t some_tokens = std::min(kTokens, tokens);
  const std::vector<int64_t> some_rows(static_cast<size_t>(std::min(kRows, rows)), 0);
  // Equal tokens go to the same experts: quick, and the worst case for what an expert gathers.
  const Tensor ids = at::zeros({some_tokens}, at::kLong);
  nn::Caches caches;
  Tensor hidden;
  const auto forward = [&] {
    nn::Pass pass = nn::Pass::next(0, some_tokens, caches);
    hidden = parts.forward(ids, pass);
  };
  const auto logits = [&] { parts.logits(hidden, some_rows); };
  // The first time brings in what stays: caches, mapped weights, scratch memory of the threads.
  forward();
  logits();
  const int64_t of_forward = growth_during(forward), of_logits = growth_during(logits);
  return {caches.layout(),
          scaled(of_forward, some_tokens, tokens) + scaled(of_logits, std::ssize(some_rows), rows)};
}

}  // namespace quern::runner
