#include "compress/draft.h"

#include "base/error.h"

namespace quern::compress {

Samples draft_input(const nn::Draft& draft, const nn::Stem& stem, const nn::Head& head,
                    const std::vector<std::vector<int32_t>>& windows, const Samples& last) {
  QUERN_CHECK(windows.size() == last.lengths.size());
  at::NoGradGuard no_grad;
  Samples input;
  std::vector<Tensor> rows;
  int64_t begin = 0;
  for (const std::vector<int32_t>& window : windows) {
    const int64_t tokens = std::ssize(window), known = tokens - 1;
    if (known > 0) {
      nn::Pass pass = nn::Pass::whole({known});
      const Tensor next = at::tensor(window, at::kInt).to(at::kLong).slice(0, 1);
      const Tensor states = head.norm(last.rows.narrow(0, begin, known));
      rows.push_back(at::cat({draft.embed(next, stem, pass), states}, -1));
      input.lengths.push_back(known);
    }
    begin += tokens;
  }
  if (rows.empty()) fail("a draft layer cannot be calibrated with windows of a single token");
  input.rows = at::cat(rows);
  return input;
}

}  // namespace quern::compress
