#include "ops/rope.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "ops/pieces.h"

namespace quern::ops {
namespace {

// Interleaved M-RoPE: within their sections, frequency j belongs to height if j % 3 == 1 and to
// width if j % 3 == 2; all others belong to time (transformers, modeling_qwen3_5_moe.py:
// apply_interleaved_mrope).
std::vector<int64_t> interleaved_axes(const std::vector<int64_t>& sections, int64_t frequencies) {
  std::vector<int64_t> axes(frequencies, 0);
  for (int64_t axis : {1, 2}) {
    for (int64_t j = axis; j < 3 * sections[axis] && j < frequencies; j += 3) axes[j] = axis;
  }
  return axes;
}

// theta^(-2 j / width) for the first `count` j.
Tensor frequencies_of(double theta, int64_t count, int64_t width) {
  Tensor exponents =
      at::arange(0, 2 * count, 2, at::kLong).to(at::kFloat) / static_cast<double>(width);
  return 1.0 / at::pow(at::Scalar(theta), exponents);
}

double positive(const Json& parameters, const char* key) {
  const auto value = parameters.get<double>(key);
  if (!(value > 0)) fail("{}: {} is {}, but must be positive", parameters.path(), key, value);
  return value;
}

// The number of positions before the context was extended.
double original_context(const Json& parameters, int64_t positions) {
  const char* key = "original_max_position_embeddings";
  if (parameters.has(key) || positions < 1) return positive(parameters, key);
  return static_cast<double>(positions);
}

// Llama 3.1: low frequencies are divided by `factor`, high ones are kept, and those between are
// interpolated.
Tensor llama3(const Tensor& frequencies, const Json& parameters, int64_t positions) {
  const double factor = positive(parameters, "factor"),
               low = positive(parameters, "low_freq_factor"),
               high = positive(parameters, "high_freq_factor");
  const double context = original_context(parameters, positions);
  if (high <= low)
    fail("{}: high_freq_factor must be larger than low_freq_factor", parameters.path());
  Tensor waves = 2 * M_PI / frequencies;
  Tensor kept = ((context / waves - low) / (high - low)).clamp(0, 1);
  return (1 - kept) * (frequencies / factor) + kept * frequencies;
}

// YaRN (Peng et al., 2023): low frequencies are divided by `factor`, high ones are kept, with a
// ramp between the dimensions that rotate beta_slow and beta_fast times in the original context.
Tensor yarn(const Tensor& frequencies, const Json& parameters, double theta, int64_t positions) {
  const auto count = static_cast<double>(frequencies.size(0));
  const double factor = positive(parameters, "factor");
  const double context = original_context(parameters, positions);
  auto dimension = [&](double turns) {
    return count * std::log(context / (turns * 2 * M_PI)) / std::log(theta);
  };
  double low = dimension(parameters.get<double>("beta_fast", 32)),
         high = dimension(parameters.get<double>("beta_slow", 1));
  if (parameters.get<bool>("truncate", true)) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, 2 * count - 1);
  if (low == high) high += 0.001;
  Tensor slowed = ((at::arange(frequencies.size(0), at::kFloat) - low) / (high - low)).clamp(0, 1);
  return slowed * (frequencies / factor) + (1 - slowed) * frequencies;
}

double yarn_magnitude(const Json& parameters) {
  if (parameters.has("attention_factor")) return parameters.get<double>("attention_factor");
  const double factor = parameters.get<double>("factor");
  auto scaled = [&](double by) { return factor <= 1 ? 1.0 : 0.1 * by * std::log(factor) + 1.0; };
  const auto mscale = parameters.get<double>("mscale", 0),
             all = parameters.get<double>("mscale_all_dim", 0);
  return mscale != 0 && all != 0 ? scaled(mscale) / scaled(all) : scaled(1);
}

void refuse_unknown(const Json& parameters) {
  constexpr const char* kKnown[] = {"rope_type",        "type",
                                    "rope_theta",       "partial_rotary_factor",
                                    "mrope_section",    "mrope_interleaved",
                                    "factor",           "original_max_position_embeddings",
                                    "low_freq_factor",  "high_freq_factor",
                                    "attention_factor", "beta_fast",
                                    "beta_slow",        "mscale",
                                    "mscale_all_dim",   "truncate"};
  for (const std::string& key : parameters.keys()) {
    if (std::ranges::find(kKnown, key) == std::end(kKnown))
      fail("{}: \"{}\" is not implemented", parameters.path(), key);
  }
}

}  // namespace

// Where `rope_parameters` lacks a key, the older key next to it counts
// (transformers, modeling_rope_utils.py: convert_rope_params_to_dict).
Rope::Rope(const Json& c, int64_t head_dim, const RopeDefaults& defaults) {
  RopeDefaults outer = defaults;
  outer.theta = c.get<double>("rope_theta", defaults.theta);
  outer.partial = c.get<double>("partial_rotary_factor", defaults.partial);
  outer.positions = c.get<int64_t>("max_position_embeddings", defaults.positions);
  const JsonValue none = JsonValue::object();
  Json parameters(none, c.path());
  for (const char* key : {"rope_parameters", "rope_scaling"})
    if (c.has(key) && c.at(key).size() > 0) parameters = c.at(key);
  read(parameters, head_dim, outer);
}

Rope::Rope(const Json& c, const std::string& layer_type, int64_t head_dim) {
  const Json parameters = c.at("rope_parameters").at(layer_type);
  read(parameters, head_dim,
       {.theta = parameters.get<double>("rope_theta"),
        .positions = c.get<int64_t>("max_position_embeddings", 0)});
}

void Rope::read(const Json& parameters, int64_t head_dim, const RopeDefaults& defaults) {
  refuse_unknown(parameters);
  const auto type =
      parameters.get<std::string>("rope_type", parameters.get<std::string>("type", "default"));
  const auto theta = parameters.get<double>("rope_theta", defaults.theta),
             partial = parameters.get<double>("partial_rotary_factor", defaults.partial);
  const auto turned = static_cast<int64_t>(static_cast<double>(head_dim) * partial);
  if (turned <= 0 || turned % 2 != 0 || turned > head_dim || head_dim % 2 != 0) {
    fail("{}: partial_rotary_factor {} of head_dim {} is not an even number of dimensions",
         parameters.path(), partial, head_dim);
  }
  // "proportional" pairs dimensions across the whole head, and unrotated pairs have frequency 0;
  // all other types rotate the first dimensions only and pair them with each other.
  rotated_ = type == "proportional" ? head_dim : turned;
  frequencies_ = frequencies_of(theta, turned / 2, rotated_);
  if (type == "proportional") {
    frequencies_ = at::cat({frequencies_, at::zeros({(head_dim - turned) / 2}, at::kFloat)});
    if (parameters.has("factor")) frequencies_ /= positive(parameters, "factor");
  } else if (type == "linear") {
    frequencies_ /= positive(parameters, "factor");
  } else if (type == "llama3") {
    frequencies_ = llama3(frequencies_, parameters, defaults.positions);
  } else if (type == "yarn") {
    frequencies_ = yarn(frequencies_, parameters, theta, defaults.positions);
    magnitude_ = yarn_magnitude(parameters);
  } else if (type != "default" && type != "mrope") {
    fail(
        "{}: rope type \"{}\" is not implemented; known: default, linear, llama3, mrope, "
        "proportional, yarn",
        parameters.path(), type);
  }
  const auto counts = parameters.get<std::vector<int64_t>>("mrope_section", defaults.sections);
  if (counts.empty()) return;
  if (counts.size() != 3 || counts[0] + counts[1] + counts[2] != rotated_ / 2) {
    fail("{}: mrope_section must be three numbers with the sum {}", parameters.path(),
         rotated_ / 2);
  }
  if (!parameters.get<bool>("mrope_interleaved", true))
    fail("{}: mrope_interleaved false is not implemented", parameters.path());
  axis_of_ = interleaved_axes(counts, rotated_ / 2);
}

Tensor Rope::operator()(const Tensor& x, const Tensor& positions) const {
  const Tensor frequencies = frequencies_.to(positions.device());
  Tensor angles;  // [tokens, r / 2]
  if (positions.dim() == 1) {
    angles = positions.to(at::kFloat).unsqueeze(1) * frequencies;
  } else {
    QUERN_CHECK(!axis_of_.empty() && positions.size(0) == 3);
    Tensor per_axis = positions.to(at::kFloat).unsqueeze(2) * frequencies;  // [3, tokens, r / 2]
    Tensor axis = at::tensor(axis_of_, positions.options())
                      .reshape({1, 1, -1})
                      .expand({1, per_axis.size(1), -1});
    angles = per_axis.gather(0, axis).squeeze(0);
  }
  const int64_t half = rotated_ / 2, rest = x.size(2) - rotated_;
  auto rotate = [=](const std::vector<Tensor>& in) {
    Tensor a = in[0].narrow(2, 0, half), b = in[0].narrow(2, half, half);
    Tensor turned = at::cat({a * in[1] - b * in[2], b * in[1] + a * in[2]}, -1);
    return rest == 0 ? turned : at::cat({turned, in[0].narrow(2, 2 * half, rest)}, -1);
  };
  auto of_angles = [&](Tensor (*f)(const Tensor&)) {
    return by_rows([f](const std::vector<Tensor>& in) { return f(in[0]); }, {angles}, {half});
  };
  Tensor cos = of_angles(at::cos), sin = of_angles(at::sin);
  if (magnitude_ != 1) {
    cos.mul_(magnitude_);
    sin.mul_(magnitude_);
  }
  return by_rows(rotate, {x, cos.unsqueeze(1), sin.unsqueeze(1)}, x.sizes().slice(1));
}

}  // namespace quern::ops
