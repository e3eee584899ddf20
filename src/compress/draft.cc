#include "compress/draft.h"

#include "base/error.h"

namespace quern::compress {

Samples draft_input(const nn::Draft& draft, const nn::Stem& stem, const nn::Head& head,
                    const std::vector<std::vector<int32_t>>& windows,
                    const std::vector<std::vector<nn::PlacedImage>>& images, const Samples& last) {
  QUERN_CHECK(std::ssize(windows) == last.count());
  QUERN_CHECK(images.empty() || images.size() == windows.size());
  at::NoGradGuard no_grad;
  std::vector<int64_t> lengths, windows_of;  // of the samples that have a next token
  for (int64_t i = 0; i < last.count(); ++i) {
    if (last.tokens(i) < 2) continue;
    lengths.push_back(last.tokens(i) - 1);
    windows_of.push_back(i);
  }
  if (lengths.empty()) fail("a draft layer cannot be calibrated with windows of a single token");
  Samples input(lengths);
  for (int64_t i = 0; i < input.count(); ++i) {
    const int64_t window = windows_of[i], known = lengths[i];
    nn::Pass pass = nn::Pass::whole({known});
    // The embedding of the next token; for an image token, the picture's feature.
    if (!images.empty()) pass.media = nn::media_of(images[window], 1, known);
    const Tensor next = at::tensor(windows[window], at::kInt).to(at::kLong).slice(0, 1);
    const Tensor states = head.norm(last.read({window}).narrow(0, 0, known));
    input.write({i}, at::cat({draft.embed(next, stem, pass), states}, -1));
    input.tell({i}, last.pass({window}).shared.narrow(0, known));
  }
  return input;
}

}  // namespace quern::compress
