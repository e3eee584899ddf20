#include "compress/channel_sums.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/threads.h"

namespace quern::compress {
namespace {

// Columns that one item sums up.
constexpr int64_t kColumns = 256;

std::vector<double> quotients(std::vector<double> sums, int64_t tokens, const std::string& module) {
  for (double& sum : sums) {
    if (!std::isfinite(sum))
      fail(
          "{}: its inputs are not finite: the checkpoint or the calibration data hold NaN or "
          "infinity",
          module);
    sum /= static_cast<double>(tokens);
  }
  return sums;
}

}  // namespace

ChannelSums::ChannelSums(int64_t matrices, int64_t columns, bool with_gram)
    : columns_(columns),
      sums_(static_cast<size_t>(matrices)),
      tokens_(static_cast<size_t>(matrices)),
      grams_(with_gram ? std::make_unique<Grams>(matrices, columns) : nullptr) {}

void ChannelSums::see(int64_t matrix, const Tensor& x, const Tensor& factors) {
  auto& sums = sums_[static_cast<size_t>(matrix)];
  sums.resize(static_cast<size_t>(columns_));
  const int64_t tokens = x.size(0);
  tokens_[static_cast<size_t>(matrix)] += tokens;
  const float* rows = x.const_data_ptr<float>();
  parallel_pieces(columns_, kColumns, [&](int64_t begin, int64_t end) {
    for (int64_t token = 0; token < tokens; ++token)
      for (int64_t column = begin; column < end; ++column)
        sums[static_cast<size_t>(column)] += std::abs(rows[token * columns_ + column]);
  });
  if (grams_) grams_->see(matrix, x, factors);
}

std::vector<double> ChannelSums::mean(int64_t matrix, const std::string& module) const {
  return quotients(sums_[static_cast<size_t>(matrix)], tokens(matrix), module);
}

std::vector<double> ChannelSums::mean_of_all(const std::string& module) const {
  std::vector<double> all;
  int64_t tokens = 0;
  for (size_t matrix = 0; matrix < sums_.size(); ++matrix) {
    tokens += tokens_[matrix];
    all.resize(std::max(all.size(), sums_[matrix].size()));
    for (size_t i = 0; i < sums_[matrix].size(); ++i) all[i] += sums_[matrix][i];
  }
  return quotients(std::move(all), tokens, module);
}

}  // namespace quern::compress
