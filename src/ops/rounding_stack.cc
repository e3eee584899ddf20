#include "ops/rounding_stack.h"

#include <algorithm>

#include "base/error.h"
#include "base/threads.h"
#include "quant/float_type.h"

namespace quern::ops {
namespace {

// Rows in one work item of the constructor.
constexpr int64_t kStartRows = 64;

int64_t item_bytes(DType dtype) { return static_cast<int64_t>(c10::elementSize(dtype)); }

}  // namespace

RoundingStack::RoundingStack(std::vector<Tensor> matrices, const quant::Scheme& scheme,
                             const RoundingOptions& options)
    : LearningStack(std::ssize(matrices), matrices.at(0).size(0), matrices.at(0).size(1),
                    fastest_dtype()),
      scheme_(scheme),
      options_(options),
      weights_(std::move(matrices)) {
  QUERN_CHECK(options.iterations >= 1 && scheme.element == &quant::kInt4);
  const int64_t rows = this->rows(), columns = this->columns(), groups = scheme.groups(columns);
  shape_.columns = columns;
  shape_.group = columns / groups;
  shape_.weight_type = quant::float_type(weights_[0].scalar_type());
  shape_.scale_type = quant::float_type(scheme.scale_dtype);
  shape_.offset_type = kernels::offset_type(options.iterations);
  shape_.symmetric = scheme.symmetric;
  shape_.delta = static_cast<float>(options.lr / options.iterations);
  QUERN_CHECK(kernels::rounding_refusal(shape_).empty());
  const DType offset_dtype =
      shape_.offset_type == kernels::OffsetType::int16 ? at::kShort : at::kInt;
  const auto group_bytes = static_cast<int64_t>(sizeof(kernels::RoundingGroup));
  const at::TensorOptions here = weights_[0].options();
  for (const Tensor& weight : weights_) {
    QUERN_CHECK(weight.size(0) == rows && weight.size(1) == columns && weight.is_contiguous());
    offsets_.push_back(at::empty({rows, columns}, here.dtype(offset_dtype)));
    groups_.push_back(at::empty({rows, groups * group_bytes}, here.dtype(at::kByte)));
    codes_.push_back(at::empty({rows, columns / 2}, here.dtype(at::kByte)));
    scales_.push_back(at::empty({rows, groups}, here.dtype(scheme.scale_dtype)));
    zeros_.push_back(scheme.symmetric ? Tensor()
                                      : at::empty({rows, groups}, here.dtype(at::kByte)));
    momentum_.push_back(options.momentum == 0 ? Tensor()
                                              : at::zeros({rows, columns}, here.dtype(at::kFloat)));
  }
  const int64_t pieces = (rows + kStartRows - 1) / kStartRows;
  std::vector<uint8_t> finite(this->matrices() * pieces);
  parallel_for(std::ssize(finite), [&](int64_t item) {
    const int64_t matrix = item / pieces, begin = item % pieces * kStartRows,
                  count = std::min(kStartRows, rows - begin);
    const kernels::RoundingRows some = state(matrix, begin, count);
    finite[item] = kernels::cpu_kernels().rounding_start(shape_, some);
    set_values(matrix, begin, count,
               [&](float* w_hat) { kernels::cpu_kernels().rounding_forward(shape_, some, w_hat); });
    // Round-to-nearest is the result if no iteration is kept.
    keep_rows(matrix, begin, count);
  });
  const auto first = std::ranges::find(finite, 0);
  if (first != finite.end()) not_finite_ = (first - finite.begin()) / pieces;
}

kernels::RoundingRows RoundingStack::state(int64_t matrix, int64_t begin, int64_t count) const {
  const int64_t columns = shape_.columns;
  auto* weight = static_cast<const uint8_t*>(weights_[matrix].const_data_ptr());
  auto* offsets = static_cast<uint8_t*>(offsets_[matrix].data_ptr());
  return {count, weight + begin * columns * item_bytes(weights_[matrix].scalar_type()),
          offsets + begin * columns * item_bytes(offsets_[matrix].scalar_type()),
          reinterpret_cast<kernels::RoundingGroup*>(groups_[matrix].data_ptr<uint8_t>()) +
              begin * shape_.groups(),
          momentum_[matrix].defined() ? momentum_[matrix].data_ptr<float>() + begin * columns
                                      : nullptr};
}

kernels::RoundingCodes RoundingStack::kept(int64_t matrix, int64_t begin) const {
  auto* scales = static_cast<uint8_t*>(scales_[matrix].data_ptr());
  return {codes_[matrix].data_ptr<uint8_t>() + begin * shape_.columns / 2,
          scales + begin * shape_.groups() * item_bytes(scheme_.scale_dtype),
          zeros_[matrix].defined() ? zeros_[matrix].data_ptr<uint8_t>() + begin * shape_.groups()
                                   : nullptr};
}

void RoundingStack::keep_rows(int64_t matrix, int64_t begin, int64_t count) const {
  kernels::cpu_kernels().rounding_codes(shape_, state(matrix, begin, count), kept(matrix, begin));
}

void RoundingStack::begin_iteration(int iteration, int micro_batches) {
  iteration_ = iteration;
  remaining_ = micro_batches;
  if (micro_batches == 1) return;
  if (gradient_sums_.empty()) {
    for (const Tensor& weight : weights_)
      gradient_sums_.push_back(at::empty(weight.sizes(), weight.options().dtype(at::kFloat)));
  }
  parallel_for(matrices(), [&](int64_t matrix) { gradient_sums_[matrix].zero_(); });
}

void RoundingStack::step(int64_t matrix, int64_t begin, int64_t count, const float* gradient) {
  const int64_t columns = shape_.columns, offset = begin * columns;
  if (!gradient_sums_.empty()) {
    float* sum = gradient_sums_[matrix].data_ptr<float>() + offset;
    for (int64_t i = 0; i < count * columns; ++i) sum[i] += gradient[i];
    if (remaining_ > 1) return;
    gradient = sum;
  }
  change_rows(matrix, begin, count, gradient);
}

void RoundingStack::skip(int64_t matrix) {
  if (remaining_ > 1) return;
  if (!gradient_sums_.empty()) {
    change_rows(matrix, 0, rows(), gradient_sums_[matrix].const_data_ptr<float>());
  } else if (keep_) {
    keep_rows(matrix, 0, rows());
  }
}

void RoundingStack::change_rows(int64_t matrix, int64_t begin, int64_t count,
                                const float* gradient) {
  const kernels::RoundingCodes best = kept(matrix, begin);
  kernels::RoundingStep change{gradient, keep_ ? &best : nullptr, options_.iterations - iteration_,
                               /*minmax_step=*/0.0f, static_cast<float>(options_.momentum)};
  if (options_.tune_minmax) {
    change.minmax_step =
        static_cast<float>(options_.minmax_lr * change.steps_left / options_.iterations);
  }
  set_values(matrix, begin, count, [&](float* w_hat) {
    kernels::cpu_kernels().rounding_step(shape_, change, state(matrix, begin, count), w_hat);
  });
}

quant::QuantWeight RoundingStack::best(int64_t matrix) const {
  return {scheme_, shape_.columns, codes_[matrix], scales_[matrix], zeros_[matrix]};
}

}  // namespace quern::ops
