#include "compress/awq_search.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/threads.h"
#include "quant/matrix_rows.h"
#include "quant/rows.h"

namespace quern::compress {
namespace {

constexpr double kLeastScale = 1e-4, kLeastSize = 1e-6;

// Numbers of `dtype`, from operations in fp32.
float rounded(DType dtype, double x) { return quant::round_to(dtype, static_cast<float>(x)); }

void add_relative_sizes(const Tensor& matrix, const quant::Scheme& scheme,
                        std::vector<double>& sums) {
  const quant::MatrixRows rows(matrix, "weight");
  const DType dtype = matrix.scalar_type();
  const int64_t columns = rows.columns(), group = columns / scheme.groups(columns);
  std::vector<float> x(static_cast<size_t>(columns));
  for (int64_t row = 0; row < rows.count(); ++row) {
    quant::widen(rows[row], dtype, columns, x.data());
    for (float& value : x) value = std::abs(value);
    for (int64_t begin = 0; begin < columns; begin += group) {
      const float most = *std::max_element(x.begin() + begin, x.begin() + begin + group);
      const float divisor = rounded(dtype, most + kLeastSize);
      for (int64_t i = begin; i < begin + group; ++i)
        sums[static_cast<size_t>(i)] += rounded(dtype, x[static_cast<size_t>(i)] / divisor);
    }
  }
}

}  // namespace

std::vector<AwqTry> awq_tries(const AwqSettings& settings) {
  const bool both = settings.duo_scaling == DuoScaling::both,
             duo = settings.duo_scaling == DuoScaling::on,
             since_0_11 = settings.rules == AwqRules::since_0_11;
  std::vector<AwqTry> tries;
  if (duo && since_0_11) tries.push_back({0, false});  // no scale
  const int ratios =
      std::max(both ? settings.grid / 2 : settings.grid - static_cast<int>(tries.size()), 1);
  const int last = since_0_11 ? std::max(ratios - 1, 1) : ratios;  // the number whose ratio is 1
  for (int i = 0; i < ratios; ++i) {
    const double ratio = static_cast<double>(i) / last;
    if (both || !duo) tries.push_back({ratio, false});
    if (both || duo) tries.push_back({ratio, true});
  }
  return tries;
}

Tensor awq_scale(const AwqTry& one, const std::vector<double>& x, const std::vector<double>& w) {
  std::vector<double> scale(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    scale[i] = std::pow(x[i], one.ratio);
    if (one.duo) scale[i] /= std::pow(w[i], 1 - one.ratio) + kLeastScale;
    scale[i] = std::max(scale[i], kLeastScale);
  }
  const auto [least, most] = std::ranges::minmax(scale);
  const double middle = std::sqrt(least * most);
  Tensor result = at::empty({std::ssize(x)}, at::kFloat);
  float* out = result.data_ptr<float>();
  for (size_t i = 0; i < x.size(); ++i) {
    out[i] = static_cast<float>(scale[i] / middle);
    if (!std::isfinite(out[i])) out[i] = 1;
  }
  return result;
}

std::vector<double> relative_sizes(const std::vector<std::pair<Tensor, quant::Scheme>>& matrices) {
  const auto columns = static_cast<size_t>(matrices.at(0).first.size(1));
  std::vector<std::vector<double>> sums(matrices.size(), std::vector<double>(columns));
  parallel_for(std::ssize(matrices), [&](int64_t i) {
    const auto index = static_cast<size_t>(i);
    add_relative_sizes(matrices[index].first, matrices[index].second, sums[index]);
  });
  std::vector<double> means(columns);
  int64_t rows = 0;
  for (size_t i = 0; i < matrices.size(); ++i) {
    rows += matrices[i].first.size(0);
    for (size_t column = 0; column < columns; ++column) means[column] += sums[i][column];
  }
  for (double& mean : means) mean /= static_cast<double>(rows);
  return means;
}

AwqResult awq_search(const std::vector<AwqTry>& tries, const std::vector<double>& x,
                     const std::vector<double>& w,
                     const std::function<double(const Tensor& scale)>& loss) {
  AwqResult result;
  double least = std::numeric_limits<double>::infinity();
  for (const AwqTry& one : tries) {
    Tensor scale = awq_scale(one, x, w);
    result.losses.push_back(loss(scale));
    if (!(result.losses.back() < least)) continue;
    least = result.losses.back();
    result.best = result.losses.size() - 1;
    result.scale = std::move(scale);
  }
  return result;
}

}  // namespace quern::compress
