#include "ops/rope.h"

#include <cmath>

#include "base/error.h"
#include "ops/pieces.h"

namespace quern::ops {
namespace {

// Interleaved M-RoPE: frequency j belongs to height if j % 3 == 1 and to width if j % 3 == 2 while
// their sections last, else to time (transformers, modeling_qwen3_5_moe.py:
// apply_interleaved_mrope).
std::vector<int64_t> interleaved_axes(const std::vector<int64_t>& sections, int64_t frequencies) {
  std::vector<int64_t> axes(frequencies, 0);
  for (int64_t axis : {1, 2}) {
    for (int64_t j = axis; j < 3 * sections[axis] && j < frequencies; j += 3) axes[j] = axis;
  }
  return axes;
}

}  // namespace

Rope::Rope(const Json& c, int64_t head_dim) {
  const bool nested = c.has("rope_parameters");
  const Json parameters = nested ? c.at("rope_parameters") : c;
  std::string type = "default";
  if (nested) {
    type = parameters.get<std::string>("rope_type", "default");
  } else if (c.has("rope_scaling")) {
    const Json scaling = c.at("rope_scaling");
    type = scaling.get<std::string>("rope_type", scaling.get<std::string>("type", "default"));
  }
  if (type != "default" && type != "mrope") {
    fail("{}: rope type \"{}\" is not implemented; known: default", parameters.path(), type);
  }
  const double theta = parameters.get<double>("rope_theta", 10000.0);
  const double partial =
      parameters.get<double>("partial_rotary_factor", c.get<double>("partial_rotary_factor", 1.0));
  rotated_ = static_cast<int64_t>(static_cast<double>(head_dim) * partial);
  if (rotated_ <= 0 || rotated_ % 2 != 0 || rotated_ > head_dim) {
    fail("{}: partial_rotary_factor {} of head_dim {} is not an even number of dimensions",
         c.path(), partial, head_dim);
  }
  Tensor exponents =
      at::arange(0, rotated_, 2, at::kLong).to(at::kFloat) / static_cast<double>(rotated_);
  frequencies_ = 1.0 / at::pow(at::Scalar(theta), exponents);
  const Json sections = nested ? parameters : c.has("rope_scaling") ? c.at("rope_scaling") : c;
  if (sections.has("mrope_section")) {
    const auto counts = sections.get<std::vector<int64_t>>("mrope_section");
    if (counts.size() != 3 || counts[0] + counts[1] + counts[2] != rotated_ / 2) {
      fail("{}: mrope_section must hold three numbers that add up to {}", sections.path(),
           rotated_ / 2);
    }
    if (!sections.get<bool>("mrope_interleaved", false)) {
      fail("{}: mrope_interleaved false is not implemented", sections.path());
    }
    axis_of_ = interleaved_axes(counts, rotated_ / 2);
  }
}

Tensor Rope::operator()(const Tensor& x, const Tensor& positions) const {
  Tensor angles;  // [tokens, r / 2]
  if (positions.dim() == 1) {
    angles = positions.to(at::kFloat).unsqueeze(1) * frequencies_;
  } else {
    QUERN_CHECK(!axis_of_.empty() && positions.size(0) == 3);
    Tensor per_axis = positions.to(at::kFloat).unsqueeze(2) * frequencies_;  // [3, tokens, r / 2]
    Tensor axis =
        at::tensor(axis_of_, at::kLong).reshape({1, 1, -1}).expand({1, per_axis.size(1), -1});
    angles = per_axis.gather(0, axis).squeeze(0);
  }
  const int64_t half = rotated_ / 2, rest = x.size(2) - rotated_;
  auto rotate = [=](const std::vector<Tensor>& in) {
    Tensor a = in[0].narrow(2, 0, half), b = in[0].narrow(2, half, half);
    Tensor turned = at::cat({a * in[1] - b * in[2], b * in[1] + a * in[2]}, -1);
    return rest == 0 ? turned : at::cat({turned, in[0].narrow(2, 2 * half, rest)}, -1);
  };
  return by_rows(rotate, {x, angles.cos().unsqueeze(1), angles.sin().unsqueeze(1)},
                 x.sizes().slice(1));
}

}  // namespace quern::ops
