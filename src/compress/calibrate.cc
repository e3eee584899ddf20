#include "compress/calibrate.h"

#include <atomic>

#include "base/error.h"
#include "nn/tap.h"

namespace quern::compress {
namespace {

// Tokens of one pass: enough to give every expert a batch, and few enough to bound the memory of
// intermediate results.
constexpr int64_t kPassTokens = 4096;

void for_each_pass(const Samples& samples,
                   const std::function<void(const std::vector<int64_t>& which)>& body) {
  for (int64_t first = 0; first < samples.count();) {
    std::vector<int64_t> which;
    int64_t tokens = 0;
    do {
      which.push_back(first);
      tokens += samples.tokens(first++);
    } while (first < samples.count() && tokens + samples.tokens(first) <= kPassTokens);
    body(which);
  }
}

}  // namespace

Samples embed(const nn::Stem& stem, const std::vector<std::vector<int32_t>>& windows,
              const std::vector<std::vector<nn::PlacedImage>>& images, bool by_grid) {
  QUERN_CHECK(images.empty() || images.size() == windows.size());
  at::NoGradGuard no_grad;
  std::vector<int64_t> lengths;
  for (const auto& window : windows) lengths.push_back(std::ssize(window));
  Samples samples(lengths);
  for (int64_t i = 0; i < samples.count(); ++i) {
    nn::Pass pass = nn::Pass::whole({lengths[i]});
    if (!images.empty()) {
      pass.media = nn::media_of(images[i], 0, lengths[i]);
      // For all windows, because the shared tensors have the same names in all windows.
      if (by_grid) pass.share_grid_positions(nn::grid_positions(images[i], lengths[i]));
    }
    samples.write({i}, stem(at::tensor(windows[i], at::kInt).to(at::kLong), pass));
    samples.tell({i}, pass.shared);
  }
  return samples;
}

void run_block(const nn::Block& block, Samples& samples, std::vector<int64_t>* pairs_per_expert) {
  at::NoGradGuard no_grad;
  for_each_pass(samples, [&](const std::vector<int64_t>& which) {
    nn::Pass pass = samples.pass(which);
    pass.pairs_per_expert = pairs_per_expert;
    const nn::Shared earlier = pass.shared;
    samples.write(which, block(samples.read(which), pass));
    samples.tell(which, pass.shared.beyond(earlier));
  });
}

void look_at_block(const nn::Block& block, const Samples& samples, const Look& look) {
  at::NoGradGuard no_grad;
  for_each_pass(samples, [&](const std::vector<int64_t>& which) {
    nn::Pass pass = samples.pass(which);
    const Tensor output = block(samples.read(which), pass);
    if (look) look(which, output);
  });
}

bool first_half_reads(const nn::Block& block, const std::vector<nn::Weight>& weights,
                      const Samples& samples) {
  struct Seen : ops::InputTap {
    void see(int64_t, const Tensor&, const Tensor&) override { any = true; }
    std::atomic<bool> any = false;
  } seen;
  const nn::Tapped tapped(weights, seen);
  at::NoGradGuard no_grad;
  nn::Pass pass = samples.pass({0});
  block.mixed(samples.read({0}), pass);
  return seen.any;
}

}  // namespace quern::compress
