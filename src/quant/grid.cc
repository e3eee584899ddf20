#include "quant/grid.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "base/threads.h"
#include "quant/matrix_rows.h"
#include "quant/rows.h"
#include "quant/search.h"

namespace quern::quant {
namespace {

DType promoted(DType a, DType b) { return a == b ? a : at::kFloat; }

// llm-compressor's scale and zero: each operation is rounded to the weight's dtype.
GridPoint compressed_tensors_point(const Scheme& scheme, DType dtype, float low, float high) {
  auto rounded = [dtype](float x) { return round_to(dtype, x); };
  const auto steps = static_cast<float>(scheme.element->codes() - 1);
  const int middle = scheme.element->middle();
  GridPoint point{.zero = middle};
  if (scheme.symmetric) {
    point.scale = rounded(std::max(-low, high) / (steps / 2));
  } else {
    point.scale = rounded(rounded(high - low) / steps);
    // A group of zeros: 0 / 0 becomes the code 0 in the peer's conversion to integers.
    const auto least = static_cast<float>(-middle);
    float zero = point.scale == 0 ? 0 : rounded(least - rounded(low / point.scale));
    point.zero = middle + static_cast<int>(std::nearbyint(std::clamp(zero, least, -least - 1)));
  }
  point.scale = round_to(scheme.scale_dtype, point.scale);
  if (point.scale == 0) point.scale = epsilon(scheme.scale_dtype);
  return point;
}

// auto-round's scale and zero: the range is divided in the weight's dtype, the scale is rounded to
// its own dtype.
GridPoint auto_round_point(const Scheme& scheme, DType dtype, float low, float high) {
  auto rounded = [dtype](float x) { return round_to(dtype, x); };
  const int middle = scheme.element->middle();
  GridPoint point{.zero = middle};
  if (scheme.symmetric) {
    float extreme = high < -low ? -low : -high;  // ties give a negative scale
    point.scale = away_from_zero(
        scheme.scale_dtype, round_to(scheme.scale_dtype, extreme / static_cast<float>(middle)));
  } else {
    float scale = rounded(rounded(high - low) / static_cast<float>(scheme.element->codes() - 1));
    point.scale = away_from_zero(scheme.scale_dtype, round_to(scheme.scale_dtype, scale));
    float zero = round_to(promoted(dtype, scheme.scale_dtype), -low / point.scale);
    point.zero = static_cast<int>(std::nearbyint(zero));
  }
  return point;
}

// The grid of llm-compressor's search for AWQ scales.
GridPoint awq_point(const Scheme& scheme, DType dtype, float low, float high) {
  constexpr float kLeastRange = 1e-5f;
  auto rounded = [dtype](float x) { return round_to(dtype, x); };
  const int middle = scheme.element->middle();
  const auto steps =
      static_cast<float>(scheme.symmetric ? middle - 1 : scheme.element->codes() - 1);
  const float range = scheme.symmetric ? std::max(-low, high) : rounded(high - low);
  GridPoint point{.scale = rounded(std::max(range, rounded(kLeastRange)) / steps), .zero = middle};
  if (scheme.symmetric) return point;
  const float zero = -std::nearbyint(rounded(low / point.scale));
  point.zero = static_cast<int>(std::clamp(zero, 0.0f, steps));
  return point;
}

// Rounds one weight: its inputs and the rows of the result.
class Rounder {
 public:
  Rounder(const Tensor& weight, const Scheme& scheme, const RtnOptions& options)
      : rows_(weight, options.name),
        dtype_(weight.scalar_type()),
        scheme_(scheme),
        options_(options),
        groups_(scheme.groups(rows_.columns())),
        group_(rows_.columns() / groups_) {
    if (options.grid == Grid::compressed_tensors && options.observer == Observer::mse) {
      shrinks_ = best_shrinks(weight, scheme, options);
    }
    if (options.search_scale) {
      QUERN_CHECK(options.grid == Grid::auto_round && scheme.symmetric);
      importance_.assign(rows_.columns(), 1.0f);
      if (options.importance.defined()) {
        check_shape(options.importance, {rows_.columns()}, options.name + ": importance");
        Tensor values = options.importance.to(at::kFloat).contiguous();
        std::copy_n(values.const_data_ptr<float>(), rows_.columns(), importance_.begin());
        for (int64_t g = 0; g < groups_; ++g) fill_unseen(importance_.data() + g * group_, group_);
      }
    }
  }

  QuantWeight run(at::IntArrayRef shape) {
    allocate(shape);
    parallel_pieces(rows_.count(), rows_.piece(), [this](int64_t begin, int64_t end) {
      std::vector<float> numbers(rows_.columns()), scales(groups_);
      std::vector<uint8_t> codes(rows_.columns());
      for (int64_t row = begin; row < end; ++row) {
        round_row(row, numbers.data(), scales.data(), codes.data());
      }
    });
    return std::move(out_);
  }

 private:
  void allocate(at::IntArrayRef shape) {
    std::vector<int64_t> size = shape.vec();
    out_.scheme = scheme_;
    out_.columns = rows_.columns();
    size.back() = scheme_.element->bytes(rows_.columns());
    out_.codes = at::empty(size, at::kByte);
    size.back() = groups_;
    out_.scales = at::empty(size, scheme_.scale_dtype);
    if (!scheme_.symmetric) out_.zeros = at::empty(size, at::kByte);
    codes_ = out_.codes.mutable_data_ptr<uint8_t>();
    scales_ = static_cast<std::byte*>(out_.scales.mutable_data_ptr());
    zeros_ = scheme_.symmetric ? nullptr : out_.zeros.mutable_data_ptr<uint8_t>();
  }

  void round_row(int64_t row, float* numbers, float* scales, uint8_t* codes) {
    if (!widen(rows_[row], dtype_, rows_.columns(), numbers)) {
      fail("{}: row {} contains NaN or infinity; the checkpoint is damaged", options_.name, row);
    }
    for (int64_t g = 0; g < groups_; ++g) {
      float* x = numbers + g * group_;
      GridPoint point = point_of(x, row, g);
      if (!std::isfinite(point.scale)) {
        fail("{}: row {}, group {}: the scale overflows {}", options_.name, row, g,
             at::toString(scheme_.scale_dtype));
      }
      const Encoding encoding = {.scale = point.scale,
                                 .zero = point.zero,
                                 .add_zero_first = options_.grid == Grid::compressed_tensors,
                                 .quotient_dtype = promoted(dtype_, scheme_.scale_dtype)};
      scheme_.element->encode(*scheme_.element, x, group_, encoding, codes + g * group_);
      scales[g] = point.scale;
      if (zeros_) zeros_[row * groups_ + g] = static_cast<uint8_t>(point.zero);
    }
    narrow(scales, groups_, scheme_.scale_dtype,
           scales_ + row * groups_ * out_.scales.element_size());
    scheme_.element->pack(codes, rows_.columns(),
                          codes_ + row * scheme_.element->bytes(rows_.columns()));
  }

  GridPoint point_of(const float* x, int64_t row, int64_t g) const {
    if (options_.search_scale) {
      return {.scale = searched_scale(scheme_, x, importance_.data() + g * group_, group_),
              .zero = scheme_.element->middle()};
    }
    Range range = range_of(x, group_);
    if (!shrinks_.empty())
      range = shrunk(range, options_.shrink, shrinks_[row * groups_ + g], dtype_);
    return minmax_point(options_.grid, scheme_, dtype_, range.low, range.high);
  }

  MatrixRows rows_;
  DType dtype_;
  Scheme scheme_;
  const RtnOptions& options_;
  int64_t groups_, group_;
  std::vector<int> shrinks_;       // one for each group, when the observer is mse
  std::vector<float> importance_;  // one for each column, when scales are searched
  QuantWeight out_;
  uint8_t* codes_ = nullptr;
  std::byte* scales_ = nullptr;
  uint8_t* zeros_ = nullptr;
};

}  // namespace

std::optional<Observer> observer_named(std::string_view name) {
  for (std::string_view known : {"memoryless_minmax", "minmax", "static_minmax"}) {
    if (name == known) return Observer::minmax;
  }
  if (name == "mse" || name == "memoryless_mse") return Observer::mse;
  return std::nullopt;
}

GridPoint minmax_point(Grid grid, const Scheme& scheme, DType weight_dtype, float low, float high) {
  switch (grid) {
    case Grid::auto_round:
      return auto_round_point(scheme, weight_dtype, low, high);
    case Grid::awq:
      return awq_point(scheme, weight_dtype, low, high);
    case Grid::compressed_tensors:
      break;
  }
  return compressed_tensors_point(scheme, weight_dtype, low, high);
}

QuantWeight round_to_nearest(const Tensor& weight, const Scheme& scheme,
                             const RtnOptions& options) {
  Tensor rows = weight.dim() >= 2 && weight.stride(-1) != 1 ? weight.contiguous() : weight;
  return Rounder(rows, scheme, options).run(rows.sizes());
}

}  // namespace quern::quant
