#include "ops/inverse_factor.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/threads.h"
#include "ops/float_matrix.h"

namespace quern::ops {
namespace {

// Rows and columns of a block: its factor is computed number by number, the rest by products.
constexpr int64_t kBlock = 64;
// Rows that one item of a product works on.
constexpr int64_t kRows = 128;

// A square matrix in memory, cut into blocks.
class Square {
 public:
  explicit Square(Tensor& matrix) : data_(matrix.data_ptr<float>()), n_(matrix.size(0)) {}

  int64_t size() const { return n_; }
  int64_t blocks() const { return (n_ + kBlock - 1) / kBlock; }
  int64_t begin(int64_t block) const { return block * kBlock; }
  int64_t end(int64_t block) const { return std::min(n_, (block + 1) * kBlock); }
  float* at(int64_t row, int64_t column) const { return data_ + row * n_ + column; }

 private:
  float* data_;
  int64_t n_;
};

// R of a block on the diagonal, in place of its upper triangle; false where it is not positive
// definite. Sums are fp64, because every later number is divided by these.
bool factor_diagonal(const Square& h, int64_t begin, int64_t end) {
  for (int64_t j = end - 1; j >= begin; --j) {
    for (int64_t i = j; i >= begin; --i) {
      double sum = *h.at(i, j);
      for (int64_t k = j + 1; k < end; ++k) sum -= double{*h.at(i, k)} * *h.at(j, k);
      if (i < j) {
        *h.at(i, j) = static_cast<float>(sum / *h.at(j, j));
      } else {
        if (!(sum > 0) || !std::isfinite(sum)) return false;
        *h.at(j, j) = static_cast<float>(std::sqrt(sum));
      }
    }
  }
  return true;
}

// The inverse of the upper triangle of a block on the diagonal, zeros below it: [kBlock, kBlock].
std::vector<float> inverse_of_diagonal(const Square& r, int64_t begin, int64_t end) {
  std::vector<float> inverse(kBlock * kBlock, 0.0f);
  for (int64_t j = 0; j < end - begin; ++j) {
    for (int64_t i = j; i >= 0; --i) {
      double sum = i == j ? 1.0 : 0.0;
      for (int64_t k = i + 1; k <= j; ++k)
        sum -= double{*r.at(begin + i, begin + k)} * inverse[k * kBlock + j];
      inverse[i * kBlock + j] = static_cast<float>(sum / *r.at(begin + i, begin + i));
    }
  }
  return inverse;
}

// Rows [0, begin) of columns [begin, end): times the transpose of the block's inverse, and what
// that takes from the columns before.
void eliminate(const Square& h, int64_t begin, int64_t end, const std::vector<float>& inverse) {
  const int64_t width = end - begin;
  std::vector<float> panel(begin * width), negative(begin * width);  // of R
  parallel_pieces(begin, kRows, [&](int64_t first, int64_t last) {
    float* out = panel.data() + first * width;
    float_product({last - first,
                   width,
                   width,
                   {h.at(first, begin), h.size()},
                   {inverse.data(), kBlock, /*transposed=*/true},
                   out,
                   width});
    for (int64_t i = first * width; i < last * width; ++i) negative[i] = -panel[i];
    for (int64_t row = first; row < last; ++row)
      std::copy_n(panel.data() + row * width, width, h.at(row, begin));
  });
  parallel_pieces(begin, kRows, [&](int64_t first, int64_t last) {
    float_product({last - first,
                   begin - first,
                   width,
                   {negative.data() + first * width, width},
                   {panel.data() + first * width, width, /*transposed=*/true},
                   h.at(first, first),
                   h.size(),
                   /*accumulate=*/true});
  });
}

// H = R R^T in place of H's upper triangle; false where H is not positive definite.
bool factor(const Square& h) {
  for (int64_t block = h.blocks() - 1; block >= 0; --block) {
    const int64_t begin = h.begin(block), end = h.end(block);
    if (!factor_diagonal(h, begin, end)) return false;
    eliminate(h, begin, end, inverse_of_diagonal(h, begin, end));
  }
  return true;
}

// R^-1 in place of R, zeros below the diagonal: from the left, each block of columns by those
// before it.
void invert(const Square& r) {
  for (int64_t block = 0; block < r.blocks(); ++block) {
    const int64_t begin = r.begin(block), end = r.end(block), width = end - begin;
    std::vector<float> negative = inverse_of_diagonal(r, begin, end);
    for (int64_t row = begin; row < end; ++row) {
      std::fill(r.at(row, 0), r.at(row, begin), 0.0f);
      std::copy_n(negative.data() + (row - begin) * kBlock, width, r.at(row, begin));
    }
    for (float& x : negative) x = -x;
    std::vector<float> scaled(begin * width), panel(begin * width);
    parallel_pieces(begin, kRows, [&](int64_t first, int64_t last) {
      float_product({last - first,
                     width,
                     width,
                     {r.at(first, begin), r.size()},
                     {negative.data(), kBlock},
                     scaled.data() + first * width,
                     width});
    });
    parallel_pieces(begin, kRows, [&](int64_t first, int64_t last) {
      // The rows of the inverse so far are zero before their diagonal.
      float_product({last - first,
                     width,
                     begin - first,
                     {r.at(first, first), r.size()},
                     {scaled.data() + first * width, width},
                     panel.data() + first * width,
                     width});
    });
    for (int64_t row = 0; row < begin; ++row)
      std::copy_n(panel.data() + row * width, width, r.at(row, begin));
  }
}

// The upper triangle of H in this order with dead columns mended, full below as well.
Tensor ordered(const Tensor& gram, const InverseFactor& factor) {
  const int64_t n = gram.size(0);
  Tensor h = at::empty({n, n}, gram.options());
  const float* from = gram.const_data_ptr<float>();
  float* to = h.data_ptr<float>();
  parallel_pieces(n, kRows, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t row = factor.order[i];
      for (int64_t j = 0; j < n; ++j) {
        const int64_t column = factor.order[j];
        to[i * n + j] = from[std::min(row, column) * n + std::max(row, column)];
      }
      if (factor.dead[row]) to[i * n + i] = 1;
    }
  });
  return h;
}

double mean_of_diagonal(const Tensor& h) {
  const int64_t n = h.size(0);
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += h.const_data_ptr<float>()[i * n + i];
  return sum / static_cast<double>(n);
}

}  // namespace

InverseFactor inverse_factor(const Tensor& gram, double dampening, bool by_activation) {
  QUERN_CHECK(gram.dim() == 2 && gram.size(0) == gram.size(1) && gram.is_contiguous());
  const int64_t n = gram.size(0);
  const float* g = gram.const_data_ptr<float>();
  InverseFactor found{std::vector<int64_t>(n), std::vector<uint8_t>(n), {}, 0};
  std::iota(found.order.begin(), found.order.end(), 0);
  if (by_activation)
    std::ranges::stable_sort(found.order, std::greater(), [&](int64_t i) { return g[i * n + i]; });
  for (int64_t i = 0; i < n; ++i) found.dead[i] = g[i * n + i] == 0;
  const Tensor h = ordered(gram, found);
  const double mean = mean_of_diagonal(h);
  for (const double times : {1, 2, 5, 10}) {
    found.dampening = times * dampening;
    found.upper = h.clone();
    const auto added = static_cast<float>(found.dampening * mean);
    for (int64_t i = 0; i < n; ++i) found.upper.data_ptr<float>()[i * n + i] += added;
    const Square square(found.upper);
    if (!factor(square)) continue;
    invert(square);
    return found;
  }
  found.dampening = 0;
  found.upper = at::eye(n, gram.options());
  return found;
}

}  // namespace quern::ops
