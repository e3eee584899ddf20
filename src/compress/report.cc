#include "compress/report.h"

#include <algorithm>

namespace quern::compress {

ExpertTokens expert_tokens(std::vector<int64_t> pairs_per_expert) {
  if (pairs_per_expert.empty()) return {};
  std::sort(pairs_per_expert.begin(), pairs_per_expert.end());
  return {pairs_per_expert.front(), pairs_per_expert[pairs_per_expert.size() / 2],
          std::count(pairs_per_expert.begin(), pairs_per_expert.end(), 0)};
}

}  // namespace quern::compress
