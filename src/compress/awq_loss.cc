#include "compress/awq_loss.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <optional>

#include "base/threads.h"
#include "compress/calibrate.h"
#include "ops/float_matrix.h"
#include "ops/packed_stack.h"
#include "quant/dequantize.h"
#include "quant/grid.h"
#include "quant/rows.h"

namespace quern::compress {
namespace {

constexpr int64_t kRows = 64;  // that one item works on
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// None if a number is infinite after the scale, or was not finite before.
std::optional<quant::QuantWeight> codes_of(const Tensor& matrix, const Tensor& scale,
                                           const quant::Scheme& scheme, AwqRules rules) {
  const quant::Grid grid =
      rules == AwqRules::until_0_10 ? quant::Grid::awq : quant::Grid::compressed_tensors;
  const Tensor scaled = matrix.to(at::kFloat).mul(scale).to(matrix.scalar_type());
  if (!scaled.isfinite().all().item<bool>()) return std::nullopt;
  return quant::round_to_nearest(scaled, scheme, {.grid = grid});
}

// Both triangles, from the upper one.
Tensor symmetric(Tensor gram) {
  const int64_t size = gram.size(0);
  float* x = gram.data_ptr<float>();
  for (int64_t row = 1; row < size; ++row)
    for (int64_t column = 0; column < row; ++column)
      x[row * size + column] = x[column * size + row];
  return gram;
}

// Adds up a number of each row, in order.
double sum_of_rows(int64_t rows,
                   const std::function<void(int64_t begin, int64_t end, double* sums)>& fill) {
  std::vector<double> sums(static_cast<size_t>(rows));
  parallel_pieces(rows, kRows,
                  [&](int64_t begin, int64_t end) { fill(begin, end, sums.data() + begin); });
  double sum = 0;
  for (const double row : sums) sum += row;
  return sum;
}

}  // namespace

GramLoss::GramLoss(Tensor matrix, Tensor gram, int64_t tokens, const quant::Scheme& scheme,
                   AwqRules rules)
    : matrix_(std::move(matrix)),
      gram_(symmetric(std::move(gram))),
      tokens_(tokens),
      scheme_(scheme),
      rules_(rules) {}

// With an error e of the weights, the outputs of a row miss by e x, and the sum of the squares over
// all inputs is e G e^T.
double GramLoss::operator()(const Tensor& scale) const {
  at::NoGradGuard no_grad;
  const auto codes = codes_of(matrix_, scale, scheme_, rules_);
  if (!codes) return kInfinity;
  const Tensor error =
      quant::dequantize(*codes, at::kFloat).div_(scale).sub_(matrix_.to(at::kFloat));
  const int64_t rows = error.size(0), columns = error.size(1);
  const float* e = error.const_data_ptr<float>();
  const double sum = sum_of_rows(rows, [&](int64_t begin, int64_t end, double* sums) {
    std::vector<float> product(static_cast<size_t>((end - begin) * columns));
    ops::float_product({end - begin,
                        columns,
                        columns,
                        {e + begin * columns, columns},
                        {gram_.const_data_ptr<float>(), columns},
                        product.data(),
                        columns});
    for (int64_t row = 0; row < end - begin; ++row) {
      const float *x = e + (begin + row) * columns, *y = product.data() + row * columns;
      for (int64_t i = 0; i < columns; ++i) sums[row] += static_cast<double>(x[i]) * y[i];
    }
  });
  return sum / static_cast<double>(tokens_ * rows);
}

OutputLoss::OutputLoss(const Smoothing& smoothing, const SchemeOf& scheme, AwqRules rules,
                       const nn::Block& block, const Samples& input)
    : norm_(smoothing.norm->norm),
      factor_(norm_.factor()),
      rules_(rules),
      block_(block),
      input_(input) {
  for (const nn::LinearSite* site : smoothing.readers) {
    const auto same = [&](const Reader& reader) { return reader.weight.is(site->weight); };
    if (std::ranges::none_of(readers_, same))
      readers_.push_back({site->weight, site->weight.dense(), scheme(*site)});
  }
  look_at_block(block, input,
                [&](const auto&, const Tensor& output) { wanted_.push_back(output.contiguous()); });
}

OutputLoss::~OutputLoss() {
  norm_.become(factor_);
  for (const Reader& reader : readers_) reader.weight.become(reader.stack);
}

double OutputLoss::operator()(const Tensor& scale) const {
  norm_.become(factor_ / scale);
  for (const Reader& reader : readers_) {
    auto stack = scaled(reader, scale);
    if (!stack) return kInfinity;
    reader.weight.become(std::move(stack));
  }
  size_t pass = 0;
  double sum = 0;
  int64_t numbers = 0;
  look_at_block(block_, input_, [&](const auto&, const Tensor& output) {
    const Tensor got = output.contiguous(), wanted = wanted_[pass++];
    const int64_t width = got.size(1);
    numbers += got.numel();
    sum += sum_of_rows(got.size(0), [&](int64_t begin, int64_t end, double* sums) {
      for (int64_t row = begin; row < end; ++row)
        *sums++ = quant::square_sums(got.const_data_ptr<float>() + row * width,
                                     wanted.const_data_ptr<float>() + row * width, width)
                      .difference;
    });
  });
  return sum / static_cast<double>(numbers);
}

std::vector<std::pair<Tensor, quant::Scheme>> OutputLoss::quantized() const {
  std::vector<std::pair<Tensor, quant::Scheme>> matrices;
  for (const Reader& reader : readers_)
    if (reader.scheme)
      for (const Tensor& matrix : reader.stack->all())
        matrices.emplace_back(matrix, *reader.scheme);
  return matrices;
}

std::shared_ptr<ops::Stack> OutputLoss::scaled(const Reader& reader, const Tensor& scale) const {
  const ops::DenseStack& stack = *reader.stack;
  std::atomic<bool> finite = true;
  if (!reader.scheme) {
    auto matrices = scaled_columns(stack, scale, stack.matrix(0).scalar_type());
    for (const Tensor& matrix : matrices) finite = finite && matrix.isfinite().all().item<bool>();
    return finite ? std::make_shared<ops::DenseStack>(std::move(matrices)) : nullptr;
  }
  auto packed = ops::packed_stack(reader.weight.name(), stack.matrices(), stack.rows(),
                                  stack.columns(), *reader.scheme);
  parallel_for(stack.matrices(), [&](int64_t i) {
    at::NoGradGuard no_grad;
    const auto codes = codes_of(stack.matrix(i), scale, *reader.scheme, rules_);
    if (codes)
      packed->set(i, *codes);
    else
      finite = false;
  });
  return finite ? packed : nullptr;
}

}  // namespace quern::compress
