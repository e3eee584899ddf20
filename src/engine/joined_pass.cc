#include "engine/joined_pass.h"

#include <algorithm>

#include "base/error.h"

namespace quern::engine {
namespace {

Tensor joined_positions(const std::vector<nn::Pass>& parts) {
  const bool grid =
      std::ranges::any_of(parts, [](const nn::Pass& part) { return part.positions.dim() == 2; });
  std::vector<Tensor> all;
  for (const nn::Pass& part : parts)
    all.push_back(grid && part.positions.dim() == 1
                      ? part.positions.expand({3, part.positions.size(0)})
                      : part.positions);
  return at::cat(all, -1);
}

nn::Media joined_media(const std::vector<nn::Pass>& parts, const ops::Bounds& bounds) {
  std::vector<Tensor> tokens, features;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (!parts[i].media.tokens.defined()) continue;
    tokens.push_back(parts[i].media.tokens + bounds[i]);
    features.push_back(parts[i].media.features);
  }
  if (tokens.empty()) return {};
  return {at::cat(tokens), at::cat(features)};
}

}  // namespace

nn::Pass joined(const std::vector<nn::Pass>& parts) {
  QUERN_CHECK(!parts.empty());
  nn::Pass pass;
  pass.caches = parts.front().caches;
  pass.bounds = {0};
  for (const nn::Pass& part : parts) {
    QUERN_CHECK(part.caches == pass.caches && part.places.size() == 1);
    pass.bounds.push_back(pass.bounds.back() + part.bounds.back());
    pass.places.push_back(part.places.front());
  }
  pass.positions = joined_positions(parts);
  pass.media = joined_media(parts, pass.bounds);
  return pass;
}

}  // namespace quern::engine
