#include "compress/draft.h"

#include "base/error.h"

namespace quern::compress {

Samples draft_input(const nn::Draft& draft, const nn::Stem& stem, const nn::Head& head,
                    const std::vector<std::vector<int32_t>>& windows,
                    const std::vector<std::vector<nn::PlacedImage>>& images, const Samples& last) {
  QUERN_CHECK(windows.size() == last.lengths.size());
  QUERN_CHECK(images.empty() || images.size() == windows.size());
  at::NoGradGuard no_grad;
  Samples input;
  std::vector<Tensor> rows;
  std::vector<nn::Shared> shared;
  int64_t begin = 0;
  for (size_t i = 0; i < windows.size(); ++i) {
    const int64_t tokens = std::ssize(windows[i]), known = tokens - 1;
    if (known > 0) {
      nn::Pass pass = nn::Pass::whole({known});
      // The embedding of the next token: of a picture's feature, where it is a part of one.
      if (!images.empty()) pass.media = nn::media_of(images[i], 1, known);
      const Tensor next = at::tensor(windows[i], at::kInt).to(at::kLong).slice(0, 1);
      const Tensor states = head.norm(last.rows.narrow(0, begin, known));
      rows.push_back(at::cat({draft.embed(next, stem, pass), states}, -1));
      shared.push_back(last.shared.narrow(begin, known));
      input.lengths.push_back(known);
    }
    begin += tokens;
  }
  if (rows.empty()) fail("a draft layer cannot be calibrated with windows of a single token");
  input.rows = at::cat(rows);
  input.shared = nn::Shared::cat(shared);
  return input;
}

}  // namespace quern::compress
