#include "quant/search.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "base/threads.h"
#include "quant/matrix_rows.h"

namespace quern::quant {
namespace {

// The sum of |dequantized - x|^norm for `point`; the dequantized numbers are rounded to the dtype
// of the scale, as in llm-compressor.
float shrink_error(const float* x, int64_t count, const GridPoint& point, const Scheme& scheme,
                   DType quotient_dtype, double norm, uint8_t* codes) {
  const Encoding encoding = {
      .scale = point.scale, .zero = point.zero, .quotient_dtype = quotient_dtype};
  scheme.element->encode(*scheme.element, x, count, encoding, codes);
  auto power = static_cast<float>(norm);
  float sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    float number =
        round_to(scheme.scale_dtype, point.scale * static_cast<float>(codes[i] - point.zero));
    sum += std::pow(std::abs(number - x[i]), power);
  }
  return sum;
}

int shrink_steps(const ShrinkSearch& search) {
  return static_cast<int>(search.maxshrink * search.grid);
}

// One pass over all groups that tries the first `limit` steps. improved[i]: for some group, step i
// was better than all earlier steps.
std::vector<int> search_shrinks(const Tensor& weight, const Scheme& scheme,
                                const RtnOptions& options, int limit,
                                std::vector<std::atomic<bool>>& improved) {
  MatrixRows rows(weight, options.name);
  int64_t groups = scheme.groups(rows.columns()), group = rows.columns() / groups;
  DType dtype = weight.scalar_type();
  DType quotient = dtype == scheme.scale_dtype ? dtype : at::kFloat;
  std::vector<int> best(rows.count() * groups, 0);
  parallel_pieces(rows.count(), std::max<int64_t>(1, rows.piece() / 16),
                  [&](int64_t begin, int64_t end) {
                    std::vector<float> numbers(rows.columns());
                    std::vector<uint8_t> codes(group);
                    for (int64_t i = begin * groups; i < end * groups; ++i) {
                      if (i % groups == 0)
                        widen(rows[i / groups], dtype, rows.columns(), numbers.data());
                      const float* x = numbers.data() + (i % groups) * group;
                      Range range = range_of(x, group);
                      float least = std::numeric_limits<float>::max();
                      for (int step = 0; step < limit; ++step) {
                        Range smaller = shrunk(range, options.shrink, step, dtype);
                        GridPoint parameters =
                            minmax_point(options.grid, scheme, dtype, smaller.low, smaller.high);
                        float error = shrink_error(x, group, parameters, scheme, quotient,
                                                   options.shrink.norm, codes.data());
                        if (!(error < least)) continue;
                        least = error;
                        best[i] = step;
                        improved[step] = true;
                      }
                    }
                  });
  return best;
}

// The number of steps until `patience` consecutive steps improve nothing.
int steps_until_stop(const std::vector<std::atomic<bool>>& improved, int patience) {
  int without = 0;
  for (size_t step = 0; step < improved.size(); ++step) {
    without = improved[step] ? 0 : without + 1;
    if (without == patience) return static_cast<int>(step) + 1;
  }
  return static_cast<int>(improved.size());
}

}  // namespace

Range shrunk(const Range& range, const ShrinkSearch& search, int step, DType weight_dtype) {
  auto factor = static_cast<float>(1 - step / search.grid);
  return {.low = round_to(weight_dtype, range.low * factor),
          .high = round_to(weight_dtype, range.high * factor)};
}

std::vector<int> best_shrinks(const Tensor& weight, const Scheme& scheme,
                              const RtnOptions& options) {
  int steps = shrink_steps(options.shrink);
  std::vector<std::atomic<bool>> improved(steps);
  std::vector<int> best = search_shrinks(weight, scheme, options, steps, improved);
  int stop = steps_until_stop(improved, options.shrink.patience);
  if (stop < steps) best = search_shrinks(weight, scheme, options, stop, improved);
  return best;
}

float away_from_zero(DType scale_dtype, float scale) {
  float least = round_to(scale_dtype, scale_dtype == at::kFloat ? 1e-8f : 1e-5f);
  return scale < 0 ? std::min(scale, -least) : std::max(scale, least);
}

void fill_unseen(float* importance, int64_t count) {
  float sum = 0;
  int64_t seen = 0;
  for (int64_t i = 0; i < count; ++i) {
    sum += importance[i];
    seen += importance[i] != 0;
  }
  float mean = seen == 0 ? 1.0f : sum / static_cast<float>(seen);
  std::replace(importance, importance + count, 0.0f, mean);
}

float searched_scale(const Scheme& scheme, const float* x, const float* importance, int64_t count) {
  const int middle = scheme.element->middle();
  const auto low = static_cast<float>(-middle), high = static_cast<float>(middle - 1);
  const float* extreme =
      std::max_element(x, x + count, [](float a, float b) { return std::abs(a) < std::abs(b); });
  auto inverse = [](float a) { return a == 0 ? 0 : 1 / a; };
  auto loss_of = [&](float inverse_scale) {
    float scale = inverse(inverse_scale), sum = 0;
    for (int64_t i = 0; i < count; ++i) {
      float code = std::clamp(std::nearbyint(inverse_scale * x[i]), low, high);
      float error = scale * code - x[i];
      sum += importance[i] * (error * error);
    }
    return sum;
  };
  constexpr int kCandidates = 100;  // on each side
  const double step = middle * 0.75 / 200 * 2;
  float best = low * inverse(*extreme), least = loss_of(best);
  for (int k = -kCandidates; k <= kCandidates; ++k) {
    if (k == 0) continue;
    float candidate = static_cast<float>(-(middle - step * k)) * inverse(*extreme);
    float loss = loss_of(candidate);
    if (loss < least) {
      least = loss;
      best = candidate;
    }
  }
  // auto-round bounds the scale by 1e-5, whatever the dtype, before it rounds it.
  float scale = inverse(best), least_scale = 1e-5f;
  scale = scale < 0 ? std::min(scale, -least_scale) : std::max(scale, least_scale);
  return round_to(scheme.scale_dtype, scale);
}

}  // namespace quern::quant
