#include "ops/axial_rope.h"

#include "base/error.h"
#include "ops/pieces.h"

namespace quern::ops {

Tensor axial_angles(const Tensor& places, double theta, int64_t width) {
  const Tensor exponents =
      at::arange(0, width, 2, at::kLong).to(at::kFloat) / static_cast<double>(width);
  return places.to(at::kFloat).unsqueeze(1) * (1.0 / at::pow(at::Scalar(theta), exponents));
}

Tensor rotated(const Tensor& x, const Tensor& angles) {
  const int64_t half = angles.size(1);
  QUERN_CHECK(x.dim() == 3 && x.size(2) == 2 * half && x.size(0) == angles.size(0));
  auto rotate = [=](const std::vector<Tensor>& in) {
    const Tensor a = in[0].narrow(2, 0, half), b = in[0].narrow(2, half, half);
    return at::cat({a * in[1] - b * in[2], b * in[1] + a * in[2]}, -1);
  };
  return by_rows(rotate, {x, angles.cos().unsqueeze(1), angles.sin().unsqueeze(1)},
                 x.sizes().slice(1));
}

}  // namespace quern::ops
