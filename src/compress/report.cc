#include "compress/report.h"

#include <sys/resource.h>

#include <algorithm>
#include <chrono>

#include "tensor/memory.h"

namespace quern::compress {
namespace {

size_t peak_memory_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<size_t>(usage.ru_maxrss) * 1024;
}

}  // namespace

ExpertTokens expert_tokens(std::vector<int64_t> pairs_per_expert) {
  if (pairs_per_expert.empty()) return {};
  std::sort(pairs_per_expert.begin(), pairs_per_expert.end());
  return {pairs_per_expert.front(), pairs_per_expert[pairs_per_expert.size() / 2],
          std::count(pairs_per_expert.begin(), pairs_per_expert.end(), 0)};
}

BlockReport timed(BlockReport begun, const Progress& progress,
                  const std::function<void(BlockReport&)>& work) {
  const auto start = std::chrono::steady_clock::now();
  BlockReport report = std::move(begun);
  if (progress.block_begins) progress.block_begins(report.block, report.blocks, report.name);
  work(report);
  release_memory();
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  report.peak_memory_bytes = peak_memory_bytes();
  if (progress.block_done) progress.block_done(report);
  return report;
}

}  // namespace quern::compress
