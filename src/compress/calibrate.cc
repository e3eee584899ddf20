#include "compress/calibrate.h"

#include "base/error.h"

namespace quern::compress {
namespace {

// Tokens of one pass: enough for every expert to work on a batch, and bounded memory for what lies
// between the products.
constexpr int64_t kPassTokens = 4096;

}  // namespace

Samples embed(const nn::Stem& stem, const std::vector<std::vector<int32_t>>& windows,
              const std::vector<std::vector<nn::PlacedImage>>& images, bool by_grid) {
  QUERN_CHECK(images.empty() || images.size() == windows.size());
  at::NoGradGuard no_grad;
  Samples samples;
  std::vector<Tensor> rows;
  std::vector<nn::Shared> shared;
  for (size_t i = 0; i < windows.size(); ++i) {
    const auto tokens = static_cast<int64_t>(windows[i].size());
    nn::Pass pass = nn::Pass::whole({tokens});
    if (!images.empty()) {
      pass.media = nn::media_of(images[i], 0, tokens);
      // For all windows, because what is shared has the same names in all.
      if (by_grid) pass.share_grid_positions(nn::grid_positions(images[i], tokens));
    }
    rows.push_back(stem(at::tensor(windows[i], at::kInt).to(at::kLong), pass));
    samples.lengths.push_back(tokens);
    shared.push_back(std::move(pass.shared));
  }
  samples.rows = at::cat(rows);
  samples.shared = nn::Shared::cat(shared);
  return samples;
}

Samples run_block(const nn::Block& block, const Samples& input,
                  std::vector<int64_t>* pairs_per_expert) {
  at::NoGradGuard no_grad;
  Samples output{{}, input.lengths, input.shared};
  std::vector<nn::Shared> added;
  int64_t row = 0;
  for (size_t first = 0; first < input.lengths.size();) {
    std::vector<int64_t> lengths;
    int64_t tokens = 0;
    do {
      lengths.push_back(input.lengths[first]);
      tokens += input.lengths[first++];
    } while (first < input.lengths.size() && tokens + input.lengths[first] <= kPassTokens);
    nn::Pass pass = nn::Pass::whole(lengths);
    pass.pairs_per_expert = pairs_per_expert;
    pass.shared = input.shared.narrow(row, tokens);
    const Tensor rows = block(input.rows.narrow(0, row, tokens), pass);
    if (!output.rows.defined())
      output.rows = at::empty({input.rows.size(0), rows.size(1)}, at::kFloat);
    output.rows.narrow(0, row, tokens).copy_(rows);
    added.push_back(pass.shared.beyond(input.shared));
    row += tokens;
  }
  output.shared.add(nn::Shared::cat(added));
  return output;
}

}  // namespace quern::compress
