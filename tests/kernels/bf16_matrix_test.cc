// Products of bf16 matrices against their definition in double, for every memory layout of the
// factors.
#include <algorithm>
#include <limits>

#include "tests/kernels/cases.h"

namespace quern::kernels {
namespace {

struct Size {
  int64_t rows, columns, inner;
};

// Panels of 32 columns, 12 rows at a time, squares of 16 words and blocks of 128 words: sizes equal
// to each, off by one, and smaller.
constexpr Size kSizes[] = {{1, 1, 1},     {1, 1, 2},      {12, 32, 64},  {13, 33, 65},
                           {11, 31, 63},  {5, 100, 300},  {40, 17, 514}, {128, 70, 31},
                           {24, 64, 256}, {25, 48, 1025}, {3, 16, 32},   {64, 512, 128}};

float rounded(float value) { return float_from_bf16(bf16_from_float(value)); }

// x [rows, columns] in a wider matrix whose other elements are not numbers.
template <class T>
struct Wide {
  Wide(const std::vector<float>& x, int64_t rows, int64_t columns, bool transpose)
      : stride((transpose ? rows : columns) + 3), values((transpose ? columns : rows) * stride) {
    constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
    std::fill(values.begin(), values.end(), as(kNan));
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < columns; ++j)
        values[transpose ? j * stride + i : i * stride + j] = as(x[i * columns + j]);
    }
  }
  static T as(float value) {
    if constexpr (std::is_same_v<T, float>)
      return value;
    else
      return bf16_from_float(value);
  }
  MatrixPlace<T> place() const { return {values.data(), stride}; }

  int64_t stride;
  std::vector<T> values;
};

class Bf16MatrixTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const CpuKernels* kernels : available_cpu_kernels()) {
      if (kernels->bf16_matrix) matrix_ = kernels->bf16_matrix;
    }
    if (!matrix_) GTEST_SKIP() << "this processor has no instruction for bf16 products";
  }

  const Bf16Matrix* matrix_ = nullptr;
};

TEST_F(Bf16MatrixTest, EqualsTheDefinitionHoweverTheFactorsLie) {
  for (const Size& s : kSizes) {
    SCOPED_TRACE(testing::Message() << s.rows << " x " << s.inner << " x " << s.columns);
    const std::vector<float> a = normal_floats(s.rows * s.inner, 1),
                             b = normal_floats(s.inner * s.columns, 2),
                             before = normal_floats(s.rows * s.columns, 3);
    Guarded<uint16_t> left[2] = {Guarded<uint16_t>(bf16_left_elements(s.rows, s.inner)),
                                 Guarded<uint16_t>(bf16_left_elements(s.rows, s.inner))};
    const Wide<float> rows(a, s.rows, s.inner, false), columns(a, s.rows, s.inner, true);
    matrix_->left(rows.place(), s.rows, s.inner, left[0].data());
    matrix_->left_transposed(columns.place(), s.rows, s.inner, left[1].data());
    EXPECT_TRUE(left[0].same_bits(left[1]));

    std::vector<Guarded<uint16_t>> right;
    for (int i = 0; i < (s.inner % 2 ? 2 : 3); ++i)
      right.emplace_back(bf16_right_elements(s.inner, s.columns));
    const Wide<float> floats(b, s.inner, s.columns, false);
    const Wide<uint16_t> halves(b, s.inner, s.columns, false), turned(b, s.inner, s.columns, true);
    matrix_->right(floats.place(), s.inner, s.columns, right[0].data());
    matrix_->right_bf16(halves.place(), s.inner, s.columns, right[1].data());
    if (right.size() > 2)
      matrix_->right_bf16_transposed(turned.place(), s.inner, s.columns, right[2].data());
    for (const auto& arranged : right) {
      EXPECT_TRUE(arranged.guards_hold());
      EXPECT_TRUE(arranged.same_bits(right[0]));
    }

    for (bool accumulate : {false, true}) {
      Guarded<float> c(s.rows * s.columns);
      std::copy(before.begin(), before.end(), c.data());
      matrix_->product(s.rows, s.columns, s.inner, left[0].data(), right[0].data(), c.data(),
                       s.columns, accumulate);
      EXPECT_TRUE(c.guards_hold());
      for (int64_t i = 0; i < s.rows; ++i) {
        for (int64_t j = 0; j < s.columns; ++j) {
          double exact = accumulate ? before[i * s.columns + j] : 0, magnitude = std::abs(exact);
          for (int64_t k = 0; k < s.inner; ++k) {
            const double term = double{rounded(a[i * s.inner + k])} * rounded(b[k * s.columns + j]);
            exact += term;
            magnitude += std::abs(term);
          }
          ASSERT_NEAR(c[i * s.columns + j], exact, 1e-6 * magnitude) << i << ", " << j;
        }
      }
    }
  }
}

TEST_F(Bf16MatrixTest, AnElementDoesNotDependOnItsNeighbours) {
  constexpr int64_t kRows = 40, kColumns = 70, kInner = 600;
  const std::vector<float> a = normal_floats(kRows * kInner, 4),
                           b = normal_floats(kInner * kColumns, 5);
  Guarded<uint16_t> left(bf16_left_elements(kRows, kInner)),
      right(bf16_right_elements(kInner, kColumns));
  matrix_->left({a.data(), kInner}, kRows, kInner, left.data());
  matrix_->right({b.data(), kColumns}, kInner, kColumns, right.data());
  std::vector<float> all(kRows * kColumns), alone(kColumns);
  matrix_->product(kRows, kColumns, kInner, left.data(), right.data(), all.data(), kColumns, false);
  for (int64_t row = 0; row < kRows; ++row) {
    matrix_->product(1, kColumns, kInner, left.data() + row * kInner, right.data(), alone.data(),
                     kColumns, false);
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), all.begin() + row * kColumns)) << row;
  }
}

}  // namespace
}  // namespace quern::kernels
