#include "compress/grams.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/threads.h"
#include "compress/calibrate.h"
#include "nn/tap.h"
#include "ops/float_matrix.h"

namespace quern::compress {
namespace {

// Rows of a Gram matrix that one item sums up.
constexpr int64_t kRows = 128;

}  // namespace

Grams::Grams(int64_t matrices, int64_t columns)
    : columns_(columns),
      sums_(static_cast<size_t>(matrices)),
      tokens_(static_cast<size_t>(matrices)) {}

void Grams::see(int64_t matrix, const Tensor& x, const Tensor& /*factors*/) {
  Tensor& sum = sums_[static_cast<size_t>(matrix)];
  const bool first = !sum.defined();
  if (first) sum = at::empty({columns_, columns_}, x.options());
  const int64_t tokens = x.size(0);
  tokens_[static_cast<size_t>(matrix)] += tokens;
  const float* rows = x.const_data_ptr<float>();
  parallel_pieces(columns_, kRows, [&](int64_t begin, int64_t end) {
    ops::float_product({end - begin,
                        columns_ - begin,
                        tokens,
                        {rows + begin, columns_, /*transposed=*/true},
                        {rows + begin, columns_},
                        sum.data_ptr<float>() + begin * columns_ + begin,
                        columns_,
                        /*accumulate=*/!first});
  });
}

Tensor Grams::take(int64_t matrix, const std::string& module) {
  Tensor sum = std::move(sums_[static_cast<size_t>(matrix)]);
  if (sum.defined() && !sum.diagonal().isfinite().all().item<bool>())
    fail(
        "{}: its inputs are not finite, or too large for the sum of their squares: the checkpoint "
        "or the calibration data hold NaN, infinity or very large numbers",
        module);
  return sum;
}

Tensor Grams::take_scaled(int64_t matrix, int64_t windows, const std::string& module) {
  Tensor sum = take(matrix, module);
  if (!sum.defined()) return sum;
  const float scale = 2.0f / static_cast<float>(windows);
  parallel_pieces(columns_, kRows, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float* x = sum.data_ptr<float>() + row * columns_;
      for (int64_t i = row; i < columns_; ++i) x[i] *= scale;
    }
  });
  return sum;
}

std::vector<SharedInput> gather_grams(const BlockWork& work) {
  std::vector<SharedInput> inputs;
  for (const Task& task : work.tasks) {
    auto known = std::ranges::find_if(
        inputs, [&](const SharedInput& other) { return other.tasks[0].input == task.input; });
    if (known == inputs.end()) {
      inputs.push_back(
          {{}, std::make_unique<Grams>(task.weight.matrices(), task.weight.columns())});
      known = inputs.end() - 1;
    }
    QUERN_CHECK(task.weight.matrices() == known->grams->matrices());
    known->tasks.push_back(task);
  }
  std::vector<std::unique_ptr<nn::Tapped>> taps;
  for (const SharedInput& input : inputs)
    taps.push_back(std::make_unique<nn::Tapped>(weights_of(input.tasks), *input.grams));
  look_at_block(work.block, work.input);
  return inputs;
}

void SolvedMatrices::add(const std::string& module, Solved solved) {
  if (solved != Solved::well) modules_[solved].push_back(module);
}

std::vector<std::string> SolvedMatrices::warnings(std::string_view fallback) const {
  std::vector<std::string> texts;
  for (const auto& [solved, modules] : modules_) {
    std::string text = modules[0];
    if (modules.size() > 1) text += fmt::format(" and {} more", modules.size() - 1);
    if (solved == Solved::with_more_dampening)
      texts.push_back(text + ": needed more dampening than the recipe states");
    else if (solved == Solved::not_at_all)
      texts.push_back(
          fmt::format("{}: the Gram matrix of the inputs has no inverse; {}", text, fallback));
    else
      texts.push_back(fmt::format("{}: no calibration token reached it; {}", text, fallback));
  }
  return texts;
}

Solved solved_by(const ops::InverseFactor& factor, double dampening) {
  if (factor.dampening == 0) return Solved::not_at_all;
  return factor.dampening > dampening ? Solved::with_more_dampening : Solved::well;
}

}  // namespace quern::compress
