#include "nn/media.h"

#include <algorithm>

#include "base/error.h"

namespace quern::nn {

Tensor Media::in_place_of(const Tensor& embedded) const {
  return tokens.defined() ? embedded.index_copy(0, tokens, features) : embedded;
}

Tensor Media::masked(const Tensor& ids, int64_t id) const {
  return tokens.defined() ? ids.index_fill(0, tokens, at::Scalar(id)) : ids;
}

Media media_of(const std::vector<PlacedImage>& images, int64_t first, int64_t count) {
  std::vector<Tensor> tokens, features;
  for (const PlacedImage& image : images) {
    const int64_t begin = std::max(first, image.first), end = std::min(first + count, image.end());
    if (begin >= end) continue;
    tokens.push_back(at::arange(begin - first, end - first, at::kLong));
    features.push_back(image.features.narrow(0, begin - image.first, end - begin));
  }
  if (tokens.empty()) return {};
  return {at::cat(tokens), at::cat(features)};
}

Tensor grid_positions(const std::vector<PlacedImage>& images, int64_t tokens) {
  const int64_t all = images.empty() ? tokens : std::max(tokens, images.back().end());
  Tensor positions = at::empty({3, all}, at::kLong);
  int64_t token = 0, position = 0;
  auto text_until = [&](int64_t end) {
    positions.slice(1, token, end) = at::arange(position, position + end - token, at::kLong);
    position += end - token;
    token = end;
  };
  for (const PlacedImage& image : images) {
    QUERN_CHECK(image.first >= token);
    text_until(image.first);
    Tensor grid = positions.slice(1, token, image.end()).unflatten(1, {image.rows, image.columns});
    grid[0].fill_(position);
    grid[1].copy_(at::arange(position, position + image.rows, at::kLong).unsqueeze(1));
    grid[2].copy_(at::arange(position, position + image.columns, at::kLong));
    position += std::max(image.rows, image.columns);
    token = image.end();
  }
  text_until(all);
  return positions.narrow(1, 0, tokens);
}

}  // namespace quern::nn
