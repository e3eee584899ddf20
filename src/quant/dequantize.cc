#include "quant/dequantize.h"

#include <cmath>
#include <vector>

#include "base/error.h"
#include "base/threads.h"
#include "quant/matrix_rows.h"
#include "quant/rows.h"

namespace quern::quant {
namespace {

// Decodes one row at a time; owns the buffers for it.
class RowDecoder {
 public:
  explicit RowDecoder(const QuantWeight& weight)
      : element_(*weight.scheme.element),
        codes_(weight.codes, "codes"),
        scales_(weight.scales, "scales"),
        zeros_(weight.zeros.defined() ? weight.zeros : weight.codes, "zeros"),
        symmetric_(!weight.zeros.defined()),
        scale_dtype_(weight.scales.scalar_type()),
        columns_(weight.columns),
        groups_(weight.scales.size(-1)),
        group_(columns_ / groups_) {
    QUERN_CHECK(codes_.columns() == element_.bytes(columns_) && codes_.count() == scales_.count());
    QUERN_CHECK(columns_ == group_ * groups_);
  }

  int64_t rows() const { return codes_.count(); }
  int64_t columns() const { return columns_; }
  int64_t piece() const { return codes_.piece() / 2 + 1; }

  struct Buffers {
    std::vector<uint8_t> codes;
    std::vector<float> scales, numbers;
  };
  Buffers buffers() const {
    return {std::vector<uint8_t>(columns_), std::vector<float>(groups_),
            std::vector<float>(columns_)};
  }

  void decode(int64_t row, Buffers& out) const {
    element_.unpack(static_cast<const uint8_t*>(codes_[row]), columns_, out.codes.data());
    widen(scales_[row], scale_dtype_, groups_, out.scales.data());
    const uint8_t* zeros = symmetric_ ? nullptr : static_cast<const uint8_t*>(zeros_[row]);
    for (int64_t g = 0; g < groups_; ++g) {
      element_.decode(out.codes.data() + g * group_, group_, out.scales[g],
                      zeros ? zeros[g] : element_.middle(), out.numbers.data() + g * group_);
    }
  }

 private:
  const Element& element_;
  MatrixRows codes_, scales_, zeros_;
  bool symmetric_;
  DType scale_dtype_;
  int64_t columns_, groups_, group_;
};

}  // namespace

Tensor dequantize(const QuantWeight& weight, DType dtype) {
  RowDecoder decoder(weight);
  std::vector<int64_t> shape = weight.codes.sizes().vec();
  shape.back() = decoder.columns();
  Tensor out = at::empty(shape, dtype);
  auto* bytes = static_cast<std::byte*>(out.mutable_data_ptr());
  int64_t row_bytes = decoder.columns() * out.element_size();
  parallel_pieces(decoder.rows(), decoder.piece(), [&](int64_t begin, int64_t end) {
    auto buffers = decoder.buffers();
    for (int64_t row = begin; row < end; ++row) {
      decoder.decode(row, buffers);
      narrow(buffers.numbers.data(), decoder.columns(), dtype, bytes + row * row_bytes);
    }
  });
  return out;
}

double relative_error(const Tensor& weight, const QuantWeight& quantized) {
  RowDecoder decoder(quantized);
  MatrixRows rows(weight, "weight");
  QUERN_CHECK(rows.count() == decoder.rows() && rows.columns() == decoder.columns());
  std::vector<SquareSums> sums(rows.count());
  parallel_pieces(rows.count(), decoder.piece(), [&](int64_t begin, int64_t end) {
    auto buffers = decoder.buffers();
    std::vector<float> original(rows.columns());
    for (int64_t row = begin; row < end; ++row) {
      decoder.decode(row, buffers);
      widen(rows[row], weight.scalar_type(), rows.columns(), original.data());
      sums[row] = square_sums(original.data(), buffers.numbers.data(), rows.columns());
    }
  });
  double error = 0, size = 0;
  for (const SquareSums& sum : sums) {
    error += sum.difference;
    size += sum.first;
  }
  return error == 0 ? 0 : std::sqrt(error / size);
}

}  // namespace quern::quant
